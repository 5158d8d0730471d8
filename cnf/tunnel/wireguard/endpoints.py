"""Endpoints: parsing ``host:port``, and names resolved at the edge.

One invariant: applying never waits for DNS. A name that was resolved once keeps its last good addresses for as long
as DNS is away, and a name never resolved has none.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable

from cnf.tunnel import errors
from cnf.tunnel.plan.wanted import PeerEndpoint
from fleetboard.model.addresses import Address

log = logging.getLogger(__name__)

REFRESH_S = 60.0
RETRY_S = 5.0

_PARTS = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^\[\]:]+)):(?P<port>[0-9]{1,5})")
_NAME = re.compile(
    r"(?=.{1,253}\.?$)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?"
)


@dataclasses.dataclass(frozen=True, slots=True)
class SocketAddress:
    """An endpoint as WireGuard has it."""

    address: Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


def parse(text: str, *, field: str = "endpoint") -> PeerEndpoint:
    """Parse ``192.0.2.1:31820``, ``[2001:db8::1]:31820`` or ``hub.example:31820``.

    Raises:
        EndpointRefusedError: naming ``field`` and the value.
    """
    parts = _PARTS.fullmatch(text)
    expected = "expected address:port, [IPv6 address]:port or name:port"
    if parts is None:
        raise errors.EndpointRefusedError(f"{field} {text!r} is malformed: {expected}")
    port = int(parts["port"])
    if not 0 < port < 65536:
        raise errors.EndpointRefusedError(f"{field} {text!r} has port {port}: expected 1 to 65535")
    return PeerEndpoint(_parse_host(parts["six"], parts["host"], shown=f"{field} {text!r}"), port)


def _parse_host(six: str | None, host: str | None, *, shown: str) -> str:
    try:
        if six is not None:
            return str(ipaddress.IPv6Address(six))
        assert host is not None
        # A last label of digits alone can only be an address (RFC 3696), and then it must be a right one.
        if host.rstrip(".").rpartition(".")[2].isdigit():
            return str(ipaddress.IPv4Address(host))
    except ValueError as err:
        raise errors.EndpointRefusedError(f"{shown} has a malformed address: {err}") from err
    if not _NAME.fullmatch(host):
        raise errors.EndpointRefusedError(f"{shown} has a malformed name: expected a DNS name or an address")
    return host.lower()


def parse_address(text: str) -> SocketAddress:
    """Parse an endpoint as WireGuard prints it.

    Raises:
        EndpointRefusedError: a name or malformed.
    """
    endpoint = parse(text)
    try:
        return SocketAddress(ipaddress.ip_address(endpoint.host), endpoint.port)
    except ValueError as err:
        raise errors.EndpointRefusedError(f"endpoint {text!r} is a name: expected an address") from err


def look_up(host: str) -> list[Address]:
    """Resolve a name, in the resolver's order; empty when it can't be resolved now."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as err:
        log.warning("cannot resolve an endpoint's name", extra={"host": host, "error": str(err)})
        return []
    return [ipaddress.ip_address(entry[4][0]) for entry in found]


class Resolver:
    """Resolves endpoints in the background and calls ``on_change`` when an answer differs from the last."""

    def __init__(
        self,
        *,
        on_change: Callable[[], None] = lambda: None,
        look_up: Callable[[str], list[Address]] = look_up,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_change = on_change
        self._look_up = look_up
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Address, ...]] = {}
        self._due: dict[str, float] = {}
        self._running: set[str] = set()

    def addresses(self, candidates: Iterable[PeerEndpoint]) -> tuple[SocketAddress, ...]:
        """Return what is known of ``candidates`` now, in their order, and look up what is due; never waits."""
        found: list[SocketAddress] = []
        for endpoint in candidates:
            found += [SocketAddress(address, endpoint.port) for address in self._known_of(endpoint.host)]
        return tuple(dict.fromkeys(found))

    def _known_of(self, host: str) -> tuple[Address, ...]:
        try:
            return (ipaddress.ip_address(host),)
        except ValueError:
            pass
        with self._lock:
            if host not in self._running and self._clock() >= self._due.get(host, 0.0):
                self._running.add(host)
                # getaddrinfo has no timeout of its own: the thread waits in our place, one at most for each name.
                threading.Thread(target=self._refresh, args=(host,), name=f"resolve {host}", daemon=True).start()
            return self._known.get(host, ())

    def _refresh(self, host: str) -> None:
        found: tuple[Address, ...] = ()
        try:
            found = tuple(dict.fromkeys(self._look_up(host)))
        finally:
            with self._lock:
                changed = bool(found) and set(found) != set(self._known.get(host, ()))
                if changed:
                    self._known[host] = found
                self._due[host] = self._clock() + (REFRESH_S if found else RETRY_S)
                self._running.discard(host)
        if changed:
            self._on_change()
