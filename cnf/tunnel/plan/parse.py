"""From the objects of the API to what a plan starts from.

One invariant: a malformed object becomes a ``Refusal`` and leaves the others as they are. What a member says of itself
is read from its own namespace only: under another's name it says nothing.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable

from cnf.tunnel import errors
from cnf.tunnel.plan import mesh
from cnf.tunnel.plan.mesh import HubIdentity, HubPeer, Member, MeshNode, NodeIdentity, Reason, Refusal, Session
from cnf.tunnel.plan.wanted import DEFAULT_MTU, Endpoint
from cnf.tunnel.wireguard import endpoints, key
from fleetboard.model import addresses, fleet, meta, names
from fleetboard.model.addresses import Address, Network

_ERRORS = (errors.TunnelError, addresses.AddressRefusedError, ValueError)
LOWEST_MTU, HIGHEST_MTU = 576, 9000


def parse_identity(
    name: str, public_key: str, node: fleet.FleetNode | None, peer: fleet.Peer | None
) -> NodeIdentity | None:
    """Return who this node is, or None while it has no block of its own.

    ``peer`` is the own cluster's.

    Raises:
        AddressRefusedError: a block of ours is malformed.
    """
    if node is None or not node.spec.blocks:
        return None
    cluster_blocks = parse_networks(peer.status.cluster_cidrs, field="clusterCIDRs") if peer is not None else ()
    return NodeIdentity(name, public_key, parse_networks(node.spec.blocks, field="blocks"), cluster_blocks)


def parse_nodes(nodes: Iterable[fleet.FleetNode]) -> tuple[list[MeshNode], list[Refusal]]:
    """Return the nodes that have a key and a block, oldest first."""
    found: list[MeshNode] = []
    refusals: list[Refusal] = []
    for node in sorted(nodes, key=_age):
        if not node.status.public_key or not node.spec.blocks or node.metadata.deletion_timestamp:
            continue
        try:
            found.append(_parse_node(node))
        except _ERRORS as err:
            refusals.append(Refusal(node.metadata.name, Reason.MALFORMED, str(err)))
    return found, refusals


def _parse_node(node: fleet.FleetNode) -> MeshNode:
    status = node.status
    return MeshNode(
        name=node.metadata.name,
        public_key=key.parse_public(status.public_key),
        endpoint=endpoints.parse(status.endpoint) if status.endpoint else None,
        blocks=parse_networks(node.spec.blocks, field="blocks"),
    )


def parse_hub(peer: fleet.Peer) -> tuple[HubPeer, list[Refusal]]:
    """Return the hub as its Peer shows it. A malformed endpoint is left out, the others are used.

    Raises:
        AddressRefusedError: the fleet CIDR or the hub's block is malformed.
        KeyRefusedError: its key is.
        MtuRefusedError: its MTU is out of range.
    """
    status = peer.status
    refusals: list[Refusal] = []
    found: list[Endpoint] = []
    for text in status.endpoints:
        try:
            found.append(endpoints.parse(text, field="endpoints"))
        except errors.EndpointRefusedError as err:
            refusals.append(Refusal(names.HUB, Reason.MALFORMED, str(err)))
    hub = HubPeer(
        public_key=key.parse_public(status.public_key) if status.public_key else "",
        endpoints=tuple(found),
        addresses=mesh.fleet_addresses(parse_networks(status.cluster_cidrs, field="clusterCIDRs")),
        fleet=parse_networks(status.fleet_cidrs, field="fleetCIDRs"),
        mtu=_parse_mtu(status.mtu),
    )
    return hub, refusals


def parse_hub_identity(public_key: str, peer: fleet.Peer) -> HubIdentity | None:
    """Return who the hub is, or None while syncer-hub hasn't given it a block.

    Raises:
        AddressRefusedError: the fleet CIDR or its block is malformed.
    """
    if not peer.status.cluster_cidrs or not peer.status.fleet_cidrs:
        return None
    hub, _ = parse_hub(peer)
    return HubIdentity(public_key, hub.addresses, hub.fleet, hub.mtu)


def parse_members(
    clusterset: str, peers: Iterable[fleet.Peer], reports: Iterable[fleet.PeerReport]
) -> tuple[list[Member], list[Refusal]]:
    """Return the admitted members, oldest first, with what each reports of itself in its own namespace."""
    own = {(report.metadata.namespace, report.metadata.name): report for report in reports}
    found: list[Member] = []
    refusals: list[Refusal] = []
    for peer in sorted(peers, key=_age):
        cluster = peer.metadata.name
        if cluster == names.HUB or peer.metadata.deletion_timestamp:
            continue
        report = own.get((names.member_namespace(clusterset, cluster), cluster))
        try:
            member, refused = _parse_member(cluster, peer, report)
        except _ERRORS as err:
            member, refused = None, [Refusal(cluster, Reason.MALFORMED, str(err))]
        refusals += refused
        if member is not None:
            found.append(member)
    return found, refusals


def _parse_member(
    cluster: str, peer: fleet.Peer, report: fleet.PeerReport | None
) -> tuple[Member | None, list[Refusal]]:
    blocks = parse_networks(peer.status.cluster_cidrs, field="clusterCIDRs")
    admitted = meta.find_condition(peer.status.conditions, "Admitted")
    if admitted is not None and admitted.status == "False":
        return None, [Refusal(cluster, Reason.NOT_ADMITTED, admitted.message)]
    if report is None or not blocks:
        return None, []
    if peer.status.cluster_uid and report.spec.cluster_uid != peer.status.cluster_uid:
        sentence = f"clusterUID {report.spec.cluster_uid!r} is another cluster's: expected {peer.status.cluster_uid!r}"
        return None, [Refusal(cluster, Reason.IDENTITY_CONFLICT, sentence)]
    sessions: list[Session] = []
    refusals: list[Refusal] = []
    for node in report.spec.nodes:
        if not (node.leader or node.standby) or not node.public_key or not node.addresses:
            continue
        try:
            sessions.append(_parse_session(node))
        except _ERRORS as err:
            refusals.append(Refusal(f"{cluster}/{node.name}", Reason.MALFORMED, str(err)))
    return Member(cluster, blocks, tuple(sessions), max(0, report.spec.epoch)), refusals


def _parse_session(node: fleet.ReportedNode) -> Session:
    found: list[Address] = [_parse_address(text) for text in node.addresses]
    return Session(key.parse_public(node.public_key), tuple(dict.fromkeys(found)), node.leader, node.name)


def _parse_address(text: str) -> Address:
    address: Address = ipaddress.ip_address(text)
    # A zone may hold any text, and the address is printed into what sockets and WireGuard read.
    if getattr(address, "scope_id", None) is not None:
        raise ValueError(f"address {text[:64]!r} has a zone: expected a fleet address")
    return address


def settle(member: Member, *, epoch: int, public_key: str) -> Member:
    """Return ``member`` as of the highest epoch known: its report's, or one that was announced in the tunnel.

    A report with a lower epoch is a late one and must not take the traffic back.
    """
    if epoch <= member.epoch or all(session.public_key != public_key for session in member.sessions):
        return member
    sessions = tuple(
        dataclasses.replace(session, leader=session.public_key == public_key) for session in member.sessions
    )
    return dataclasses.replace(member, sessions=sessions, epoch=epoch)


def parse_networks(texts: Iterable[str], *, field: str) -> tuple[Network, ...]:
    """Parse a list of CIDRs.

    Raises:
        AddressRefusedError: naming ``field`` and the value.
    """
    return tuple(addresses.parse_cidr(text, field=field) for text in texts)


def _parse_mtu(value: int) -> int:
    if value == 0:
        return DEFAULT_MTU
    if not LOWEST_MTU <= value <= HIGHEST_MTU:
        raise errors.MtuRefusedError(f"mtu {value} is out of range: expected {LOWEST_MTU} to {HIGHEST_MTU}")
    return value


def _age(item: fleet.FleetNode | fleet.Peer) -> tuple[str, str]:
    return item.metadata.creation_timestamp, item.metadata.name
