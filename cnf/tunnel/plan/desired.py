"""What the tunnel must be: the value that a plan returns and ``Tunnel`` applies.

Invariant: in one ``DesiredTunnel`` every prefix has at most one peer. WireGuard gives a prefix to the peer that it was
written to last, so two peers would take it from each other at every sync.
"""

from __future__ import annotations

import dataclasses
import enum

from fleetboard.model.addresses import Address, Network

DEFAULT_MTU = 1360
KEEPALIVE_S = 25
"""WireGuard's own advice: below the 30 s after which common NATs forget a UDP flow."""


@dataclasses.dataclass(frozen=True, slots=True)
class PeerEndpoint:
    """Where a peer is reached: an address, or a name that is resolved when the plan is applied."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True)
class DesiredPeer:
    """One peer.

    Attributes:
        public_key: Base64.
        endpoints: Candidates, tried in turn; none for a peer that calls this end and may roam.
        allowed: Prefixes that it may send from and gets traffic for.
        keepalive_s: 0 for none.
    """

    public_key: str
    endpoints: tuple[PeerEndpoint, ...]
    allowed: frozenset[Network]
    keepalive_s: int = 0

    @property
    def endpoint(self) -> PeerEndpoint | None:
        """The first candidate."""
        return self.endpoints[0] if self.endpoints else None


class RouteKind(enum.Enum):
    """What a route does with a packet."""

    TUNNEL = "tunnel"
    UNREACHABLE = "unreachable"


@dataclasses.dataclass(frozen=True, slots=True)
class DesiredRoute:
    """One route of the main table.

    ``source`` is the node's fleet address. The peer would drop an ICMP error from cnf's primary address as foreign, and
    path MTU discovery would fail with it.
    """

    destination: Network
    kind: RouteKind
    source: Address | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class DesiredTunnel:
    """The whole of the tunnel.

    Attributes:
        addresses: The node's fleet addresses, one of each family; on ``lo``.
        mtu: Of the tunnel's link.
        peers: By public key, sorted.
        routes: By destination, sorted.
    """

    addresses: tuple[Address, ...]
    mtu: int
    peers: tuple[DesiredPeer, ...]
    routes: tuple[DesiredRoute, ...]

    @property
    def address(self) -> Address | None:
        """The first fleet address."""
        return self.addresses[0] if self.addresses else None

    def peer(self, public_key: str) -> DesiredPeer | None:
        """Return the peer with that key."""
        return next((peer for peer in self.peers if peer.public_key == public_key), None)
