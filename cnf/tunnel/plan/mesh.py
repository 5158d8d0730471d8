"""What a plan starts from: the nodes, the hub and the members, parsed and checked.

One invariant: these are values without strings to parse; whatever is malformed became a ``MeshRefusal`` before.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress

from cnf.tunnel.plan.wanted import DEFAULT_MTU, PeerEndpoint
from fleetboard.model.addresses import Address, Network


class MeshRefusalReason(enum.Enum):
    """Why something is left out; the values are condition reasons."""

    KEY_CONFLICT = "KeyConflict"
    ADDRESS_CONFLICT = "AddressConflict"
    MALFORMED = "Malformed"
    NOT_ADMITTED = "NotAdmitted"
    IDENTITY_CONFLICT = "IdentityConflict"


@dataclasses.dataclass(frozen=True, slots=True)
class MeshRefusal:
    """One node or member that a plan leaves out, whole or in part; the others are not harmed.

    Attributes:
        subject: Node name, cluster name or ``cluster/node``.
        reason: For a condition.
        message: One sentence naming field, value and what was expected.
    """

    subject: str
    reason: MeshRefusalReason
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who this cnf is.

    Attributes:
        name: Node name.
        public_key: Its own.
        blocks: Its own, in the order they were given; the first address of the first is its fleet address.
        cluster_blocks: Of its cluster.
    """

    name: str
    public_key: str
    blocks: tuple[Network, ...]
    cluster_blocks: tuple[Network, ...] = ()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The node's fleet addresses: one a family."""
        return fleet_addresses(self.blocks)


@dataclasses.dataclass(frozen=True, slots=True)
class MeshNode:
    """A node of the own cluster."""

    name: str
    public_key: str
    endpoint: PeerEndpoint | None
    blocks: tuple[Network, ...]

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The node's fleet addresses: one a family."""
        return fleet_addresses(self.blocks)


@dataclasses.dataclass(frozen=True, slots=True)
class RelayPeer:
    """The hub as children know it.

    Attributes:
        public_key: Empty until cnf-hub published it: then there is no hub peer yet.
        endpoints: Where children reach it.
        addresses: Its fleet addresses.
        fleet: The fleet's CIDRs.
        mtu: Of every tunnel.
    """

    public_key: str
    endpoints: tuple[PeerEndpoint, ...]
    addresses: tuple[Address, ...]
    fleet: tuple[Network, ...]
    mtu: int = DEFAULT_MTU


@dataclasses.dataclass(frozen=True, slots=True)
class Leadership:
    """Who of a cluster carries its traffic to the hub."""

    leader: str
    standbys: tuple[str, ...] = ()
    epoch: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class RelayIdentity:
    """Who this cnf-hub is."""

    public_key: str
    addresses: tuple[Address, ...]
    fleet: tuple[Network, ...]
    mtu: int = DEFAULT_MTU


@dataclasses.dataclass(frozen=True, slots=True)
class MemberSession:
    """One cnf of a member that keeps a session with the hub."""

    public_key: str
    addresses: tuple[Address, ...]
    leader: bool = False
    node: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RelayMember:
    """A cluster as the hub admitted it, with the sessions that it reports."""

    cluster: str
    blocks: tuple[Network, ...]
    sessions: tuple[MemberSession, ...]
    epoch: int = 0

    @property
    def leader(self) -> MemberSession | None:
        """The session that carries."""
        return next((session for session in self.sessions if session.leader), None)


def fleet_addresses(blocks: tuple[Network, ...]) -> tuple[Address, ...]:
    """Return the first address of the first block of each family."""
    found: dict[int, Address] = {}
    for block in blocks:
        found.setdefault(block.version, block.network_address)
    return tuple(found[version] for version in sorted(found))


def host(address: Address) -> Network:
    """Return the prefix of one address."""
    network: Network = ipaddress.ip_network(address)
    return network
