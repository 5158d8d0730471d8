"""Decide which node gets which block of the cluster's addresses.

Pure. One invariant: a block is granted only through a Claim named after it, so a decision made on stale knowledge
fails at the API instead of giving one block to two nodes.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Iterable

from fleetboard.model import addresses, fleet
from fleetboard.model.addresses import Network

REST = datetime.timedelta(hours=24)
"""How long a released block waits for its old owner before another node may have it."""
PURPOSE = "node-block"


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """Give ``block`` to ``node``.

    Attributes:
        node: Its name.
        block: What it gets.
        claim: The Claim that stands already, its own or a tombstone; None when it is still to be made.
    """

    node: str
    block: Network
    claim: fleet.Claim | None


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What to do.

    Attributes:
        grants: At most one a node; the next follows once this one shows.
        refused: Node name to a sentence, for nodes that want a block when none is left.
    """

    grants: tuple[Grant, ...]
    refused: dict[str, str]


def plan_grants(
    nodes: Iterable[fleet.FleetNode],
    claims: Iterable[fleet.Claim],
    cluster_blocks: Collection[Network],
    *,
    now: datetime.datetime,
) -> Decision:
    """Decide on the next block of every node that wants one, longest waiting first."""
    nodes = list(nodes)
    held = {claim.metadata.name: claim for claim in claims if claim.spec.purpose == PURPOSE}
    # What a node shows it has, though somebody deleted its Claim.
    shown = {block for node in nodes for block in node.spec.blocks}
    grants: list[Grant] = []
    refused: dict[str, str] = {}
    for node in sorted(nodes, key=lambda node: (node.metadata.creation_timestamp, node.metadata.name)):
        name = node.metadata.name
        if node.metadata.deletion_timestamp or len(node.spec.blocks) >= max(1, node.status.blocks_wanted):
            continue
        taken = shown | {str(grant.block) for grant in grants}
        grant = _recover(node, held, cluster_blocks) or _first_free(name, held, cluster_blocks, taken, now=now)
        if grant is None:
            text = ", ".join(map(str, cluster_blocks)) or "none yet"
            refused[name] = f"no free block for node {name!r} in the cluster's blocks ({text})"
        else:
            grants.append(grant)
    return Decision(tuple(grants), refused)


def plan_releases(claims: Iterable[fleet.Claim], live_nodes: Collection[str]) -> list[fleet.Claim]:
    """Return the Claims of nodes that are gone and not marked as released yet."""
    return [
        claim
        for claim in claims
        if claim.spec.purpose == PURPOSE and not claim.spec.released and claim.spec.owner not in live_nodes
    ]


def _recover(node: fleet.FleetNode, held: dict[str, fleet.Claim], cluster_blocks: Collection[Network]) -> Grant | None:
    """Find a block that the node holds by Claim without showing it: a leader died in between, or the node is back."""
    for block in addresses.node_blocks(cluster_blocks):
        claim = held.get(addresses.claim_name(block))
        if claim is not None and claim.spec.owner == node.metadata.name and str(block) not in node.spec.blocks:
            return Grant(node.metadata.name, block, claim)
    return None


def _first_free(
    node: str,
    held: dict[str, fleet.Claim],
    cluster_blocks: Collection[Network],
    taken: Collection[str],
    *,
    now: datetime.datetime,
) -> Grant | None:
    for block in addresses.node_blocks(cluster_blocks):
        claim = held.get(addresses.claim_name(block))
        if str(block) not in taken and (claim is None or _rested(claim, now)):
            return Grant(node, block, claim)
    return None


def _rested(claim: fleet.Claim, now: datetime.datetime) -> bool:
    if not claim.spec.released:
        return False
    try:
        released = datetime.datetime.fromisoformat(claim.spec.released.replace("Z", "+00:00"))
    except ValueError:
        return False
    return now - released >= REST
