"""Parses the API's objects into the values of ``mesh``, which a plan starts from.

Invariant: a malformed object becomes a ``MeshRefusal`` and leaves the others as they are. A member's report is read
from the member's own namespace only, so no member reports for another.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable

from cnf.tunnel import errors
from cnf.tunnel.plan import endpoints, mesh, public_key
from cnf.tunnel.plan.desired import DEFAULT_MTU, PeerEndpoint
from cnf.tunnel.plan.mesh import (
    MemberSession,
    MeshNode,
    MeshRefusal,
    MeshRefusalReason,
    NodeIdentity,
    RelayIdentity,
    RelayMember,
    RelayPeer,
)
from fleetboard.model import addresses, fleet, meta, names
from fleetboard.model.addresses import Address

_ERRORS = (errors.TunnelError, addresses.AddressRefusedError, ValueError)
LOWEST_MTU, HIGHEST_MTU = 576, 9000


def parse_identity(
    name: str, public_key: str, node: fleet.FleetNode | None, peer: fleet.Peer | None
) -> NodeIdentity | None:
    """Return who this node is, or None while it has no block of its own.

    ``peer`` is this cluster's.

    Raises:
        AddressRefusedError: a block of the node or its cluster is malformed.
    """
    if node is None or not node.spec.blocks:
        return None
    blocks = addresses.parse_networks(node.spec.blocks, field="blocks")
    cluster_cidrs = peer.status.cluster_cidrs if peer is not None else ()
    return NodeIdentity(name, public_key, blocks, addresses.parse_networks(cluster_cidrs, field="clusterCIDRs"))


def parse_nodes(nodes: Iterable[fleet.FleetNode]) -> tuple[list[MeshNode], list[MeshRefusal]]:
    """Return the nodes that have a key and a block, oldest first."""
    parsed: list[MeshNode] = []
    refusals: list[MeshRefusal] = []
    for node in sorted(nodes, key=_age):
        if not node.status.public_key or not node.spec.blocks or node.metadata.deletion_timestamp:
            continue
        try:
            parsed.append(_parse_node(node))
        except _ERRORS as err:
            refusals.append(MeshRefusal(node.metadata.name, MeshRefusalReason.MALFORMED, str(err)))
    return parsed, refusals


def _parse_node(node: fleet.FleetNode) -> MeshNode:
    status = node.status
    return MeshNode(
        name=node.metadata.name,
        public_key=public_key.parse(status.public_key),
        endpoint=endpoints.parse(status.endpoint) if status.endpoint else None,
        blocks=addresses.parse_networks(node.spec.blocks, field="blocks"),
    )


def parse_relay(peer: fleet.Peer) -> tuple[RelayPeer, list[MeshRefusal]]:
    """Return the relay as the hub's Peer shows it, without its malformed endpoints.

    Raises:
        AddressRefusedError: the fleet CIDR or the hub's block is malformed.
        KeyRefusedError: the relay's key is malformed.
        MtuRefusedError: the MTU is out of range.
    """
    status = peer.status
    refusals: list[MeshRefusal] = []
    usable: list[PeerEndpoint] = []
    for text in status.endpoints:
        try:
            usable.append(endpoints.parse(text, field="endpoints"))
        except errors.EndpointRefusedError as err:
            refusals.append(MeshRefusal(names.HUB, MeshRefusalReason.MALFORMED, str(err)))
    relay = RelayPeer(
        public_key=public_key.parse(status.public_key) if status.public_key else "",
        endpoints=tuple(usable),
        addresses=mesh.fleet_addresses(addresses.parse_networks(status.cluster_cidrs, field="clusterCIDRs")),
        fleet=addresses.parse_networks(status.fleet_cidrs, field="fleetCIDRs"),
        mtu=_parse_mtu(status.mtu),
    )
    return relay, refusals


def parse_relay_identity(public_key: str, peer: fleet.Peer) -> RelayIdentity | None:
    """Return who the relay is, or None while syncer-hub has allocated no block for the hub.

    Raises:
        AddressRefusedError: the fleet CIDR or the hub's block is malformed.
        KeyRefusedError: the key in the hub's Peer is malformed.
        MtuRefusedError: the MTU is out of range.
    """
    if not peer.status.cluster_cidrs or not peer.status.fleet_cidrs:
        return None
    relay, _ = parse_relay(peer)
    return RelayIdentity(public_key, relay.addresses, relay.fleet, relay.mtu)


def parse_members(
    clusterset: str, peers: Iterable[fleet.Peer], reports: Iterable[fleet.PeerReport]
) -> tuple[list[RelayMember], list[MeshRefusal]]:
    """Return the admitted members, oldest first, each with the report in its own namespace."""
    by_name = {(report.metadata.namespace, report.metadata.name): report for report in reports}
    members: list[RelayMember] = []
    refusals: list[MeshRefusal] = []
    for peer in sorted(peers, key=_age):
        cluster = peer.metadata.name
        if cluster == names.HUB or peer.metadata.deletion_timestamp:
            continue
        report = by_name.get((names.member_namespace(clusterset, cluster), cluster))
        try:
            member, refused = _parse_member(cluster, peer, report)
        except _ERRORS as err:
            member, refused = None, [MeshRefusal(cluster, MeshRefusalReason.MALFORMED, str(err))]
        refusals += refused
        if member is not None:
            members.append(member)
    return members, refusals


def _parse_member(
    cluster: str, peer: fleet.Peer, report: fleet.PeerReport | None
) -> tuple[RelayMember | None, list[MeshRefusal]]:
    blocks = addresses.parse_networks(peer.status.cluster_cidrs, field="clusterCIDRs")
    admitted = meta.find_condition(peer.status.conditions, "Admitted")
    if admitted is not None and admitted.status == "False":
        return None, [MeshRefusal(cluster, MeshRefusalReason.NOT_ADMITTED, admitted.message)]
    if report is None or not blocks:
        return None, []
    if peer.status.cluster_uid and report.spec.cluster_uid != peer.status.cluster_uid:
        sentence = f"clusterUID {report.spec.cluster_uid!r} is another cluster's: expected {peer.status.cluster_uid!r}"
        return None, [MeshRefusal(cluster, MeshRefusalReason.IDENTITY_CONFLICT, sentence)]
    sessions: list[MemberSession] = []
    refusals: list[MeshRefusal] = []
    for node in report.spec.nodes:
        if not (node.leader or node.standby) or not node.public_key or not node.addresses:
            continue
        try:
            sessions.append(_parse_session(node))
        except _ERRORS as err:
            refusals.append(MeshRefusal(f"{cluster}/{node.name}", MeshRefusalReason.MALFORMED, str(err)))
    return RelayMember(cluster, blocks, tuple(sessions), max(0, report.spec.epoch)), refusals


def _parse_session(node: fleet.ReportedNode) -> MemberSession:
    unique = dict.fromkeys(_parse_address(text) for text in node.addresses)
    return MemberSession(public_key.parse(node.public_key), tuple(unique), node.leader, node.name)


def _parse_address(text: str) -> Address:
    address: Address = ipaddress.ip_address(text)
    # A zone may hold any text, and sockets and WireGuard parse the address again from its text.
    if getattr(address, "scope_id", None) is not None:
        raise ValueError(f"address {text[:64]!r} has a zone: expected a fleet address")
    return address


def with_leader(member: RelayMember, *, epoch: int, public_key: str) -> RelayMember:
    """Return ``member`` led by the holder of ``public_key`` if ``epoch`` is higher than its report's.

    Such an epoch was announced in the tunnel. A report with a lower one is late and must not take the traffic back.
    """
    if epoch <= member.epoch or all(session.public_key != public_key for session in member.sessions):
        return member
    sessions = tuple(
        dataclasses.replace(session, leader=session.public_key == public_key) for session in member.sessions
    )
    return dataclasses.replace(member, sessions=sessions, epoch=epoch)


def _parse_mtu(value: int) -> int:
    if value == 0:
        return DEFAULT_MTU
    if not LOWEST_MTU <= value <= HIGHEST_MTU:
        raise errors.MtuRefusedError(f"mtu {value} is out of range: expected {LOWEST_MTU} to {HIGHEST_MTU}")
    return value


def _age(item: fleet.FleetNode | fleet.Peer) -> tuple[str, str]:
    return item.metadata.creation_timestamp, item.metadata.name
