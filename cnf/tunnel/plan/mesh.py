"""The mesh as a plan sees it: the member's nodes, the relay and the members behind it, parsed and checked.

``parse`` makes these values. Whatever is malformed became a ``MeshRefusal`` there.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress

from cnf.tunnel.plan.desired import DEFAULT_MTU, PeerEndpoint
from fleetboard.model.addresses import Address, Network


class MeshRefusalReason(enum.Enum):
    """Why a plan leaves something out; the values are condition reasons."""

    KEY_CONFLICT = "KeyConflict"
    ADDRESS_CONFLICT = "AddressConflict"
    MALFORMED = "Malformed"
    NOT_ADMITTED = "NotAdmitted"
    IDENTITY_CONFLICT = "IdentityConflict"


@dataclasses.dataclass(frozen=True, slots=True)
class MeshRefusal:
    """One node or member that a plan leaves out, whole or in part, without harm to the others.

    Attributes:
        subject: Node name, cluster name or ``cluster/node``.
        reason: The condition's.
        message: One sentence that names the field, its value and what was expected.
    """

    subject: str
    reason: MeshRefusalReason
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who this cnf is.

    Attributes:
        name: Node name.
        public_key: The node's.
        blocks: The node's, in the order of allocation. The first address of the first one is its fleet address.
        cluster_blocks: Of the node's cluster.
    """

    name: str
    public_key: str
    blocks: tuple[Network, ...]
    cluster_blocks: tuple[Network, ...] = ()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The node's fleet addresses, one of each family."""
        return fleet_addresses(self.blocks)


@dataclasses.dataclass(frozen=True, slots=True)
class MeshNode:
    """A node of this cluster."""

    name: str
    public_key: str
    endpoint: PeerEndpoint | None
    blocks: tuple[Network, ...]

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The node's fleet addresses, one of each family."""
        return fleet_addresses(self.blocks)


@dataclasses.dataclass(frozen=True, slots=True)
class RelayPeer:
    """The relay as members know it.

    Attributes:
        public_key: Empty until the relay published it; no node has it as a peer before.
        endpoints: Where members reach it.
        addresses: Its fleet addresses.
        fleet: The fleet CIDRs.
        mtu: Of every tunnel.
    """

    public_key: str
    endpoints: tuple[PeerEndpoint, ...]
    addresses: tuple[Address, ...]
    fleet: tuple[Network, ...]
    mtu: int = DEFAULT_MTU


@dataclasses.dataclass(frozen=True, slots=True)
class Leadership:
    """Which node carries its cluster's traffic to the relay, and which nodes are its standbys."""

    leader: str
    standbys: tuple[str, ...] = ()
    epoch: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class RelayIdentity:
    """Who this relay is."""

    public_key: str
    addresses: tuple[Address, ...]
    fleet: tuple[Network, ...]
    mtu: int = DEFAULT_MTU


@dataclasses.dataclass(frozen=True, slots=True)
class MemberSession:
    """One node of a member that keeps a session with the relay."""

    public_key: str
    addresses: tuple[Address, ...]
    leader: bool = False
    node: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RelayMember:
    """A cluster as the hub admitted it, with the sessions that its report lists."""

    cluster: str
    blocks: tuple[Network, ...]
    sessions: tuple[MemberSession, ...]
    epoch: int = 0

    @property
    def leader(self) -> MemberSession | None:
        """The leader's session."""
        return next((session for session in self.sessions if session.leader), None)


def fleet_addresses(blocks: tuple[Network, ...]) -> tuple[Address, ...]:
    """Return the first address of the first block of each family."""
    first: dict[int, Address] = {}
    for block in blocks:
        first.setdefault(block.version, block.network_address)
    return tuple(first[version] for version in sorted(first))


def host(address: Address) -> Network:
    """Return the prefix of one address."""
    network: Network = ipaddress.ip_network(address)
    return network
