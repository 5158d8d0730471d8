"""Decides which node gets which node block of the cluster, and which blocks go back. Pure.

Invariants: a block is granted only through a Claim named after it, so a decision on stale objects fails at the API
instead of giving one block to two nodes. A block is taken from a node only after the node itself reported that it is
empty and out of use, and goes to another node only after that. A FleetNode that was deleted and created again gets
what its node reports that it holds.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Iterable, Iterator

from fleetboard.model import addresses, fleet, times
from fleetboard.model.addresses import Network

QUARANTINE = datetime.timedelta(hours=24)
"""How long the block of a node that is gone is kept for it before another node may have it."""
PURPOSE = "node-block"


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """A block that a node gets.

    Attributes:
        node: Name of the node.
        block: Block that it gets.
        claim: The Claim that exists already, the node's own or a released one; None when it is to be created.
    """

    node: str
    block: Network
    claim: fleet.Claim | None


@dataclasses.dataclass(frozen=True, slots=True)
class BlockPlan:
    """Which blocks to allocate.

    Attributes:
        grants: In the order to carry them out.
        refused: Reason by node name, for nodes that want a block when none is left.
    """

    grants: tuple[Grant, ...]
    refused: dict[str, str]


class _BlockPool:
    """The node blocks of a cluster, and who may have which."""

    def __init__(
        self,
        nodes: Collection[fleet.FleetNode],
        claims: Iterable[fleet.Claim],
        cluster_blocks: Collection[Network],
        now: datetime.datetime,
    ) -> None:
        self._claims = {claim.metadata.name: claim for claim in claims if claim.spec.purpose == PURPOSE}
        self._cluster_blocks, self._now = cluster_blocks, now
        # Shown blocks are taken although somebody may have deleted their Claims.
        self._taken = {block for node in nodes for block in node.spec.blocks}
        # A node that gets such a block again before it saw it taken would not notice that it was away.
        self._returned = {(node.metadata.name, block) for node in nodes for block in node.status.blocks_returned}
        self._held = {(node.metadata.name, block) for node in nodes for block in node.status.blocks_missing}

    def allocate_held(self, node: fleet.FleetNode) -> list[Grant]:
        """Return the blocks that ``node`` holds and doesn't show, in its order, and mark them as taken."""
        candidates = {str(block): (block, claim) for block, claim in self._candidates(node.metadata.name)}
        held = [candidates[block] for block in node.status.blocks_missing if block in candidates]
        return [
            grant for block, claim in held if (grant := self._allocate(node.metadata.name, block, claim)) is not None
        ]

    def allocate(self, node: str) -> Grant | None:
        """Return the next block for ``node``, and mark it as taken."""
        grants = (self._allocate(node, block, claim) for block, claim in self._candidates(node))
        return next((grant for grant in grants if grant is not None), None)

    def _allocate(self, node: str, block: Network, claim: fleet.Claim | None) -> Grant | None:
        name = str(block)
        if name in self._taken or (node, name) in self._returned:
            return None
        if any(held == name and holder != node for holder, held in self._held):
            return None
        self._taken.add(name)
        return Grant(node, block, claim)

    def _candidates(self, node: str) -> Iterator[tuple[Network, fleet.Claim | None]]:
        claimed = [(block, self._claims.get(addresses.claim_name(block))) for block in self._blocks()]
        # Its own first: a leader died between Claim and FleetNode, or the node is back, or it just returned the block.
        yield from ((block, claim) for block, claim in claimed if claim is not None and claim.spec.owner == node)
        yield from (
            (block, claim) for block, claim in claimed if claim is None or _is_quarantine_over(claim, self._now)
        )
        yield from ((block, claim) for block, claim in claimed if claim is not None and _is_returned(claim))

    def _blocks(self) -> Iterator[Network]:
        return addresses.node_blocks(self._cluster_blocks)

    def explain(self) -> str:
        """Return why the cluster has no free node block."""
        if not self._cluster_blocks:
            return "the cluster has no block of addresses yet"
        quarantined = sum(1 for claim in self._claims.values() if claim.spec.released and not _is_returned(claim))
        held = self._taken | {claim.spec.cidr for claim in _held(self._claims.values())}
        noun = "block" if len(self._cluster_blocks) == 1 else "blocks"
        return (
            f"the cluster's {noun} {', '.join(map(str, self._cluster_blocks))} {'is' if noun == 'block' else 'are'} "
            f"exhausted: nodes have {len(held)} of {sum(1 for _ in self._blocks())} node blocks, {quarantined} are "
            "quarantined for 24 h; the hub allocates a further block unless the fleet CIDR is full"
        )


def plan_grants(
    nodes: Iterable[fleet.FleetNode],
    claims: Iterable[fleet.Claim],
    cluster_blocks: Collection[Network],
    *,
    now: datetime.datetime,
) -> BlockPlan:
    """Plan the next blocks of every node that wants some: in rounds, the longest waiting node first."""
    nodes = sorted(nodes, key=lambda node: (node.metadata.creation_timestamp, node.metadata.name))
    pool = _BlockPool(nodes, claims, cluster_blocks, now)
    grants: list[Grant] = []
    refused: dict[str, str] = {}
    for node in nodes:
        if _may_get_blocks(node):
            grants += pool.allocate_held(node)
    missing = {node.metadata.name: _count_missing(node) for node in nodes}
    for grant in grants:
        missing[grant.node] -= 1
    missing = {name: count for name, count in missing.items() if count > 0}
    while missing:
        for name in list(missing):
            granted = pool.allocate(name)
            if granted is None:
                refused[name] = f"no free block for node {name!r}: {pool.explain()}"
            else:
                grants.append(granted)
            missing[name] -= 1
            if granted is None or not missing[name]:
                del missing[name]
    return BlockPlan(tuple(grants), refused)


def explain_exhaustion(
    node: str,
    nodes: Iterable[fleet.FleetNode],
    claims: Iterable[fleet.Claim],
    cluster_blocks: Collection[Network],
    *,
    now: datetime.datetime,
) -> str:
    """Return why no further block comes for ``node``; nothing when one is free."""
    pool = _BlockPool(list(nodes), claims, cluster_blocks, now)
    return pool.explain() if pool.allocate(node) is None else ""


def plan_returns(nodes: Iterable[fleet.FleetNode]) -> dict[str, list[str]]:
    """Return, by node, the blocks that it has returned and still shows, except its first of each family."""
    returned = {node.metadata.name: returned_blocks(node) for node in nodes}
    return {name: blocks for name, blocks in returned.items() if blocks}


def returned_blocks(node: fleet.FleetNode) -> list[str]:
    """Return the blocks to take back from one node."""
    first: dict[bool, str] = {}
    for block in node.spec.blocks:
        first.setdefault(":" in block, block)
    return [block for block in node.spec.blocks if block in node.status.blocks_returned and block not in first.values()]


def plan_releases(claims: Iterable[fleet.Claim], live_nodes: Collection[str]) -> list[fleet.Claim]:
    """Return the Claims of nodes that are gone, unless released already."""
    return [claim for claim in _held(claims) if claim.spec.owner not in live_nodes]


def plan_orphans(nodes: Iterable[fleet.FleetNode], claims: Iterable[fleet.Claim]) -> list[fleet.Claim]:
    """Return the Claims that a dead leader left: their nodes neither show nor hold the block, nor want one."""
    by_name = {node.metadata.name: node for node in nodes}
    return [
        claim
        for claim in _held(claims)
        if (node := by_name.get(claim.spec.owner)) is not None
        and claim.spec.cidr not in (*node.spec.blocks, *node.status.blocks_missing)
        and _may_get_blocks(node)
        and _count_missing(node) <= 0
    ]


def plan_repairs(nodes: Iterable[fleet.FleetNode], claims: Iterable[fleet.Claim]) -> list[fleet.Claim]:
    """Return the released Claims whose owner shows the block: two leaders crossed, and the node has it."""
    shown = {(node.metadata.name, block) for node in nodes for block in node.spec.blocks}
    return [
        claim
        for claim in claims
        if claim.spec.purpose == PURPOSE and claim.spec.released and (claim.spec.owner, claim.spec.cidr) in shown
    ]


def _held(claims: Iterable[fleet.Claim]) -> Iterator[fleet.Claim]:
    return (claim for claim in claims if claim.spec.purpose == PURPOSE and not claim.spec.released)


def _may_get_blocks(node: fleet.FleetNode) -> bool:
    """Return whether a node may get blocks: not while a new FleetNode lacks its node's report of what it holds."""
    return not node.metadata.deletion_timestamp and bool(node.spec.blocks or node.status.public_key)


def _count_missing(node: fleet.FleetNode) -> int:
    """Count the blocks that a node wants besides those that it has in use."""
    if not _may_get_blocks(node):
        return 0
    held = sum(1 for block in node.spec.blocks if block not in node.status.blocks_returned)
    return max(1, node.status.blocks_wanted) - held


def _is_returned(claim: fleet.Claim) -> bool:
    return bool(claim.spec.released) and claim.spec.returned


def _is_quarantine_over(claim: fleet.Claim, now: datetime.datetime) -> bool:
    return bool(claim.spec.released) and times.age(claim.spec.released, now=now) >= QUARANTINE
