"""Decides what this cluster reports to the hub: its nodes, its leader and standbys, its networks.

Pure. Invariant: the leader and the standbys are those that every cnf counts, so the hub and the cluster never disagree
about which nodes may keep a session.
"""

from __future__ import annotations

import datetime
import ipaddress
import logging
from collections.abc import Iterable, Sequence

import msgspec

from fleetboard.model import addresses, core, fleet, meta
from fleetboard.model.addresses import Network
from fleetboard.model.standbys import choose_standbys
from syncer.rules import allocation

log = logging.getLogger(__name__)

JOINED = "Joined"
ADMITTED = "Admitted"
NODE_BLOCK = "node-block"
SPARE_NODE_BLOCKS = 2
"""Node blocks that are still free when the hub is asked for more: nodes take these until it answers."""


def plan(
    nodes: Iterable[fleet.FleetNode],
    lease: core.Lease | None,
    *,
    cluster: str,
    cluster_uid: str,
    networks: Sequence[Network],
    version: str,
    quarantined: int = 0,
) -> fleet.PeerReportSpec:
    """Render the report, without a heartbeat; ``quarantined`` counts the node blocks in quarantine."""
    valid = [node for node in nodes if _is_well_formed(node)]
    leader = lease.spec.holder_identity if lease is not None else ""
    # The nodes that cnf counts as nodes of the mesh: it chooses among the same ones.
    meshed = [node for node in valid if node.status.public_key and node.spec.blocks and not _is_going(node)]
    standbys = choose_standbys(leader, (node.metadata.name for node in meshed))
    reported = [
        _node(node, leader=node.metadata.name == leader, standby=node.metadata.name in standbys)
        for node in sorted(valid, key=lambda node: node.metadata.name)
        if node.status.public_key
    ]
    return fleet.PeerReportSpec(
        cluster=cluster,
        cluster_uid=cluster_uid,
        network_cidrs=[str(network) for network in networks],
        blocks_wanted=blocks_wanted(valid, quarantined=quarantined),
        nodes=reported,
        epoch=lease.spec.lease_transitions if lease is not None else 0,
        versions={"fleetboard": version},
    )


def lease_to_report(before: core.Lease | None, found: core.Lease | None) -> core.Lease | None:
    """Return the Lease to report: the last one that had a holder.

    When a leader releases the Lease, its session carries the traffic until another node takes it. If the hub received
    the released Lease, it would drop that session although nobody else leads yet.
    """
    return found if before is None or (found is not None and found.spec.holder_identity) else before


def _is_well_formed(node: fleet.FleetNode) -> bool:
    """Return whether its blocks can be read: one invalid object must not stop the whole cluster's report."""
    try:
        for block in node.spec.blocks:
            addresses.parse_cidr(block, field="blocks")
    except addresses.AddressRefusedError as err:
        log.warning(
            "left out an invalid FleetNode of the report", extra={"node": node.metadata.name, "error": str(err)}
        )
        return False
    return True


def _is_going(node: fleet.FleetNode) -> bool:
    return bool(node.metadata.deletion_timestamp)


def _node(node: fleet.FleetNode, *, leader: bool, standby: bool) -> fleet.ReportedNode:
    return fleet.ReportedNode(
        name=node.metadata.name,
        public_key=node.status.public_key,
        addresses=node_addresses(node.spec.blocks),
        mtu=node.status.mtu,
        leader=leader,
        standby=standby,
    )


def node_addresses(blocks: Iterable[str]) -> list[str]:
    """Return the node's own fleet addresses: the first address of its first block of each family."""
    first: dict[int, str] = {}
    for block in map(ipaddress.ip_network, blocks):
        first.setdefault(block.version, str(addresses.node_address(block)))
    return [first[version] for version in sorted(first)]


def quarantined_blocks(claims: Iterable[fleet.Claim], *, now: datetime.datetime) -> int:
    """Count the node blocks in quarantine, which only their former owner may have; returned ones are free."""
    unreturned = (claim.spec for claim in claims if claim.spec.purpose == NODE_BLOCK and not claim.spec.returned)
    ages = (allocation.since(spec.released, now=now) for spec in unreturned)
    return sum(1 for since in ages if since is not None and since < allocation.QUARANTINE)


def blocks_wanted(nodes: Iterable[fleet.FleetNode], *, quarantined: int = 0) -> int:
    """Count the cluster blocks, each twice the one before, that hold all wanted node blocks and ``SPARE_NODE_BLOCKS``.

    Quarantined node blocks count too: where nodes come and go all day, they fill a cluster block like used ones.
    """
    needed = (
        SPARE_NODE_BLOCKS
        + quarantined
        + sum(max(node.status.blocks_wanted, _most_blocks(node.spec.blocks)) for node in nodes)
    )
    size = 1 << (addresses.NODE_BLOCK_PREFIX[4] - addresses.CLUSTER_BLOCK_PREFIX[4])
    count, room = 1, size
    while room < needed:
        count, size = count + 1, size * 2
        room += size
    return count


def _most_blocks(blocks: Iterable[str]) -> int:
    versions = [ipaddress.ip_network(block).version for block in blocks]
    return max((versions.count(version) for version in (4, 6)), default=0)


def admission(peer: fleet.Peer | None) -> meta.Condition | None:
    """Return the hub's decision about this cluster; None until it decides."""
    return meta.find_condition(peer.status.conditions, ADMITTED) if peer is not None else None


def joined(decision: meta.Condition | None) -> meta.Condition:
    """Render the hub's decision as this cluster's Joined condition."""
    if decision is None:
        message = "Waiting for the hub to decide about this cluster."
        return meta.Condition(type=JOINED, status="Unknown", reason="Pending", message=message)
    return meta.Condition(type=JOINED, status=decision.status, reason=decision.reason, message=decision.message)


def refused(reason: str, message: str) -> meta.Condition:
    """Render why joining failed."""
    return meta.Condition(type=JOINED, status="False", reason=reason, message=message)


def with_heartbeat(spec: fleet.PeerReportSpec, now: str) -> fleet.PeerReportSpec:
    """Stamp the report with the time it is sent."""
    return msgspec.structs.replace(spec, heartbeat=now)
