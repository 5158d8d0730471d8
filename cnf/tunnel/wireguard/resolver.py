"""Resolves the names of endpoints in the background.

Invariant: applying a plan never waits for DNS. A name that was resolved once keeps its last good addresses for as long
as DNS is away; a name that was never resolved has none.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable

from cnf.tunnel.plan.desired import PeerEndpoint
from cnf.tunnel.plan.endpoints import SocketAddress
from fleetboard.model.addresses import Address

log = logging.getLogger(__name__)

REFRESH_S = 60.0
RETRY_S = 5.0


def look_up(host: str) -> list[Address]:
    """Resolve a name, in the resolver's order.

    Raises:
        OSError: the name can't be resolved now.
        UnicodeError: it is not a host name.
    """
    entries = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    return [ipaddress.ip_address(entry[4][0]) for entry in entries]


class Resolver:
    """Resolves endpoints and calls ``on_change`` when an answer differs from the last one."""

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
        self._failing: set[str] = set()

    def addresses(self, candidates: Iterable[PeerEndpoint]) -> tuple[SocketAddress, ...]:
        """Return the known addresses of ``candidates``, in their order, and look up what is due. Never waits."""
        known: list[SocketAddress] = []
        for endpoint in candidates:
            known += [SocketAddress(address, endpoint.port) for address in self._known_of(endpoint.host)]
        return tuple(dict.fromkeys(known))

    def _known_of(self, host: str) -> tuple[Address, ...]:
        try:
            return (ipaddress.ip_address(host),)
        except ValueError:
            pass
        with self._lock:
            if host not in self._running and self._clock() >= self._due.get(host, 0.0):
                self._running.add(host)
                # getaddrinfo has no timeout, so a thread waits for it: one at most for each name.
                threading.Thread(target=self._refresh, args=(host,), name=f"resolve {host}", daemon=True).start()
            return self._known.get(host, ())

    def _refresh(self, host: str) -> None:
        resolved: tuple[Address, ...] = ()
        error = "the resolver knows no address"
        try:
            resolved = tuple(dict.fromkeys(self._look_up(host)))
        except (OSError, UnicodeError) as err:
            error = str(err)
        finally:
            with self._lock:
                changed = bool(resolved) and set(resolved) != set(self._known.get(host, ()))
                if changed:
                    self._known[host] = resolved
                self._due[host] = self._clock() + (REFRESH_S if resolved else RETRY_S)
                self._running.discard(host)
                self._report(host, "" if resolved else error)
        if changed:
            self._on_change()

    def _report(self, host: str, error: str) -> None:
        """Log when a name begins to fail, and when it can be resolved again."""
        if error and host not in self._failing:
            self._failing.add(host)
            kept = "keeping its last addresses" if host in self._known else "which has no address yet"
            message = f"could not resolve the host name of a peer endpoint, {kept}"
            log.warning(message, extra={"host": host, "error": error, "retry_s": RETRY_S})
        elif not error and host in self._failing:
            self._failing.discard(host)
            log.info("resolved the host name of a peer endpoint again", extra={"host": host})
