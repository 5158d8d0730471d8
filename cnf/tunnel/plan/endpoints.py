"""Where peers are reached, parsed: ``host:port`` as configuration has it, and as WireGuard prints it.

Names are not resolved here (``wireguard.resolver``).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re

from cnf.tunnel import errors
from cnf.tunnel.plan.desired import PeerEndpoint
from fleetboard.model.addresses import Address

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
