"""Decides what the tunnel of a node, or of the relay, must be.

Pure: the same inputs make the same plan, on every node. Two invariants. A public key belongs to the node or cluster
that published it first; otherwise the second one would win the first one's traffic. A change of leader only adds
prefixes to peers; ``changes`` turns that into a write that takes a millisecond and loses no packet.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence

from cnf.tunnel.plan import mesh, prefixes
from cnf.tunnel.plan.desired import DEFAULT_MTU, KEEPALIVE_S, DesiredPeer, DesiredRoute, DesiredTunnel, RouteKind
from cnf.tunnel.plan.mesh import (
    Leadership,
    MemberSession,
    MeshNode,
    MeshRefusal,
    MeshRefusalReason,
    NodeIdentity,
    RelayIdentity,
    RelayMember,
    RelayPeer,
)
from fleetboard.model import names
from fleetboard.model.addresses import Address, Network
from fleetboard.model.standbys import STANDBYS

_NONE: Mapping[str, str] = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True, slots=True)
class TunnelPlan:
    """What the tunnel must be, and what was left out of it.

    Attributes:
        desired: For ``Tunnel``.
        refusals: For conditions and logs.
        key_owners: Public key to owner. Pass it to the next plan, so that the first owner stays the first.
    """

    desired: DesiredTunnel
    refusals: tuple[MeshRefusal, ...]
    key_owners: Mapping[str, str]


def newer(current: Leadership | None, offered: Leadership) -> Leadership:
    """Return the leadership that counts: an offer with a lower epoch is refused."""
    return current if current is not None and offered.epoch < current.epoch else offered


def plan_node(
    identity: NodeIdentity,
    nodes: Sequence[MeshNode],
    relay: RelayPeer | None,
    leadership: Leadership | None,
    *,
    key_owners: Mapping[str, str] = _NONE,
) -> TunnelPlan:
    """Plan the tunnel of a node.

    ``nodes`` are those of this cluster, oldest first. This node is ignored among them.
    """
    others, refusals, kept = _admit_nodes(identity, nodes, relay, key_owners)
    leader = leadership.leader if leadership is not None else ""
    fleet = relay.fleet if relay is not None else ()
    peers = [_mesh_peer(node, fleet if node.name == leader else ()) for node in others]
    if relay is not None and leadership is not None and relay.public_key:
        peers.extend(_relay_peer(identity, relay, leadership))
    routes = _node_routes(identity, others, fleet, leads=leader == identity.name)
    mtu = relay.mtu if relay is not None else DEFAULT_MTU
    desired = DesiredTunnel(identity.addresses, mtu, _sorted_peers(peers), _sorted_routes(routes))
    return TunnelPlan(desired, tuple(refusals), kept)


def plan_relay(
    relay: RelayIdentity, members: Sequence[RelayMember], *, key_owners: Mapping[str, str] = _NONE
) -> TunnelPlan:
    """Plan the tunnel of the relay; ``members`` are in the order the hub admitted them, oldest first."""
    owners = _owners(
        ((member.cluster, session.public_key) for member in members for session in member.sessions),
        key_owners,
        reserved={relay.public_key: names.HUB},
    )
    prefix_owners = prefixes.PrefixOwners()
    for address in relay.addresses:
        prefix_owners.assign(mesh.host(address), names.HUB)
    peers: list[DesiredPeer] = []
    refusals: list[MeshRefusal] = []
    routes = [DesiredRoute(cidr, RouteKind.UNREACHABLE) for cidr in relay.fleet]
    for member in members:
        blocks, overlapping = _admit_blocks(member.cluster, member.blocks, relay.fleet, prefix_owners)
        sessions, refused = _admit_sessions(dataclasses.replace(member, blocks=blocks), owners)
        refusals += [*overlapping, *refused]
        member_peers = [_session_peer(session, blocks) for session in sessions]
        carries = any(session.leader for session in sessions)
        reached = blocks if carries else _hosts(sessions)
        routes += [DesiredRoute(cidr, RouteKind.TUNNEL, _source(relay.addresses, cidr)) for cidr in reached]
        peers += member_peers
    desired = DesiredTunnel(relay.addresses, relay.mtu, _sorted_peers(peers), _sorted_routes(routes))
    return TunnelPlan(desired, tuple(refusals), {peer.public_key: owners[peer.public_key] for peer in peers})


def admitted_sessions(members: Iterable[RelayMember], desired: DesiredTunnel) -> dict[str, list[MemberSession]]:
    """Return, by cluster, the sessions that a plan of the relay took: WireGuard ties their addresses to their keys."""
    allowed = {peer.public_key: peer.allowed for peer in desired.peers}
    return {
        member.cluster: [
            session
            for session in member.sessions
            if all(mesh.host(address) in allowed.get(session.public_key, ()) for address in session.addresses)
        ]
        for member in members
    }


def _mesh_peer(node: MeshNode, fleet: tuple[Network, ...]) -> DesiredPeer:
    endpoints = (node.endpoint,) if node.endpoint is not None else ()
    return DesiredPeer(node.public_key, endpoints, frozenset((*node.blocks, *fleet)))


def _relay_peer(identity: NodeIdentity, relay: RelayPeer, leadership: Leadership) -> Iterator[DesiredPeer]:
    leads = leadership.leader == identity.name
    if not leads and identity.name not in leadership.standbys:
        return
    # The leader keeps the relay's own prefix beside the fleet's, so that taking over removes nothing.
    allowed = frozenset((*map(mesh.host, relay.addresses), *(relay.fleet if leads else ())))
    yield DesiredPeer(relay.public_key, relay.endpoints, allowed, KEEPALIVE_S)


def _node_routes(
    identity: NodeIdentity, others: Iterable[MeshNode], fleet: Iterable[Network], *, leads: bool
) -> Iterator[DesiredRoute]:
    for block in identity.blocks:
        yield DesiredRoute(block, RouteKind.UNREACHABLE)
    tunnelled = [*(block for node in others for block in node.blocks), *fleet]
    for cidr in tunnelled:
        yield DesiredRoute(cidr, RouteKind.TUNNEL, _source(identity.addresses, cidr))
    if leads:
        # Without these, packets to addresses that no node owns would go to the relay, which would send them back.
        for block in identity.cluster_blocks:
            yield DesiredRoute(block, RouteKind.UNREACHABLE)


def _admit_nodes(
    identity: NodeIdentity, nodes: Sequence[MeshNode], relay: RelayPeer | None, key_owners: Mapping[str, str]
) -> tuple[list[MeshNode], list[MeshRefusal], dict[str, str]]:
    others = list({node.name: node for node in reversed(nodes) if node.name != identity.name}.values())[::-1]
    reserved = {identity.public_key: f"node {identity.name}"}
    if relay is not None and relay.public_key:
        reserved[relay.public_key] = "the relay"
    owners = _owners(((node.name, node.public_key) for node in others), key_owners, reserved=reserved)
    prefix_owners = prefixes.PrefixOwners()
    for block in identity.blocks:
        prefix_owners.assign(block, identity.name)
    admitted: list[MeshNode] = []
    refusals: list[MeshRefusal] = []
    for node in others:
        if owners[node.public_key] != node.name:
            refusals.append(_key_conflict(node.name, node.public_key, owners[node.public_key]))
            continue
        blocks, overlapping = _admit_blocks(
            node.name, node.blocks, relay.fleet if relay is not None else (), prefix_owners
        )
        refusals += overlapping
        admitted.append(dataclasses.replace(node, blocks=blocks))
    return admitted, refusals, {node.public_key: node.name for node in admitted}


def _admit_blocks(
    owner: str, blocks: Iterable[Network], fleet: tuple[Network, ...], prefix_owners: prefixes.PrefixOwners
) -> tuple[tuple[Network, ...], list[MeshRefusal]]:
    admitted: list[Network] = []
    refusals: list[MeshRefusal] = []
    for block in dict.fromkeys(blocks):
        if fleet and not any(_within(block, cidr) for cidr in fleet):
            sentence = f"block {block} lies outside the fleet CIDR: expected part of {', '.join(map(str, fleet))}"
            refusals.append(MeshRefusal(owner, MeshRefusalReason.ADDRESS_CONFLICT, sentence))
        elif (holder := prefix_owners.assign(block, owner)) is not None:
            sentence = f"block {block} overlaps with one of {holder}: expected a block of its own"
            refusals.append(MeshRefusal(owner, MeshRefusalReason.ADDRESS_CONFLICT, sentence))
        else:
            admitted.append(block)
    return tuple(admitted), refusals


def _admit_sessions(member: RelayMember, owners: Mapping[str, str]) -> tuple[list[MemberSession], list[MeshRefusal]]:
    admitted: dict[str, MemberSession] = {}
    refusals: list[MeshRefusal] = []
    held: set[Address] = set()
    # The leader first: it must not lose its place to a standby that claims its key or address.
    for session in sorted(member.sessions, key=lambda session: not session.leader):
        refusal = _refuse_session(member, session, owners, held)
        if refusal is None and session.public_key in admitted:
            refusal = _key_conflict(_subject(member, session), session.public_key, admitted[session.public_key].node)
        if refusal is None and len(admitted) > STANDBYS:
            sentence = f"session of node {session.node!r} is one too many: expected a leader and {STANDBYS} standbys"
            refusal = MeshRefusal(_subject(member, session), MeshRefusalReason.MALFORMED, sentence)
        if refusal is not None:
            refusals.append(refusal)
            continue
        leads = session.leader and not any(other.leader for other in admitted.values())
        admitted[session.public_key] = dataclasses.replace(session, leader=leads)
        held.update(session.addresses)
    return list(admitted.values()), refusals


def _refuse_session(
    member: RelayMember, session: MemberSession, owners: Mapping[str, str], held: set[Address]
) -> MeshRefusal | None:
    subject = _subject(member, session)
    if owners[session.public_key] != member.cluster:
        return _key_conflict(subject, session.public_key, owners[session.public_key])
    for address in session.addresses:
        if not any(address in block for block in member.blocks):
            blocks = ", ".join(map(str, member.blocks)) or "none"
            sentence = f"session address {address} is not the cluster's own: expected part of its blocks ({blocks})"
            return MeshRefusal(subject, MeshRefusalReason.ADDRESS_CONFLICT, sentence)
        if address in held:
            sentence = f"session address {address} is another node's: expected one of its own"
            return MeshRefusal(subject, MeshRefusalReason.ADDRESS_CONFLICT, sentence)
    return None


def _session_peer(session: MemberSession, blocks: tuple[Network, ...]) -> DesiredPeer:
    allowed = frozenset((*map(mesh.host, session.addresses), *(blocks if session.leader else ())))
    return DesiredPeer(session.public_key, (), allowed)


def _owners(
    published: Iterable[tuple[str, str]], key_owners: Mapping[str, str], *, reserved: Mapping[str, str]
) -> dict[str, str]:
    owners: dict[str, str] = {}
    for owner, public_key in published:
        if public_key not in owners or key_owners.get(public_key) == owner:
            owners[public_key] = owner
    return {**owners, **reserved}


def _key_conflict(subject: str, public_key: str, owner: str) -> MeshRefusal:
    sentence = f"publicKey {public_key} belongs to {owner}, which published it first: expected a key of its own"
    return MeshRefusal(subject, MeshRefusalReason.KEY_CONFLICT, sentence)


def _subject(member: RelayMember, session: MemberSession) -> str:
    return f"{member.cluster}/{session.node}" if session.node else member.cluster


def _hosts(sessions: Iterable[MemberSession]) -> list[Network]:
    return [mesh.host(address) for session in sessions for address in session.addresses]


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _source(addresses: Iterable[Address], cidr: Network) -> Address | None:
    return next((address for address in addresses if address.version == cidr.version), None)


def _sorted_peers(peers: Iterable[DesiredPeer]) -> tuple[DesiredPeer, ...]:
    return tuple(sorted(peers, key=lambda peer: peer.public_key))


def _sorted_routes(routes: Iterable[DesiredRoute]) -> tuple[DesiredRoute, ...]:
    # The first route to a destination counts: a node's block and its cluster's may be the same prefix.
    first: dict[Network, DesiredRoute] = {}
    for route in routes:
        first.setdefault(route.destination, route)
    return tuple(sorted(first.values(), key=lambda route: (route.destination.version, route.destination)))
