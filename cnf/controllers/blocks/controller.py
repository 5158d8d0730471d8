"""Allocates blocks to nodes and releases what they return, while this node leads.

Invariant: a Claim is written before the FleetNode shows its block, and released after the FleetNode no longer shows it.
Each write is at the version that was decided on, and the leader alone writes; the next leader finishes what a dead one
left. A conflicting write is planned again without blocking other nodes.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import time
from collections.abc import Callable, Iterator

import msgspec

from cnf.agent.caches import Caches
from cnf.controllers.blocks import plan
from fleetboard.kube import client as kube_client
from fleetboard.kube import errors, events
from fleetboard.model import addresses, fleet, meta, resource, times

log = logging.getLogger(__name__)

FIELD_MANAGER = "cnf-leader"
RESYNC_S = 30.0
"""When to look again for nodes that the cluster no longer has, and for quarantines that are over; no event says so."""
SOON_S = 0.05
"""When to plan again after a conflict: a node's pods may be waiting for the block."""


class BlockController:
    """Reconciles the blocks of all nodes while ``leading`` says so."""

    def __init__(
        self,
        client: kube_client.Client,
        *,
        namespace: str,
        cluster: str,
        caches: Caches,
        leading: Callable[[], bool],
        recorder: events.Recorder,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` dates releases, in seconds of the epoch."""
        self._clock = clock
        self._client, self._namespace, self._cluster, self._caches = client, namespace, cluster, caches
        self._leading, self._recorder = leading, recorder
        self._gone_checked_at = float("-inf")  # on the monotonic clock
        self._refused: dict[str, str] = {}
        self._conflicted = False

    def reconcile(self, _key: str) -> float | None:
        """Take back what is returned, grant what is wanted; return when to look again."""
        peer = self._caches.peer(self._cluster)
        if not self._leading() or peer is None:
            return None
        self._conflicted = False
        # Nodes are large objects, and every pod that starts anywhere leads here.
        if time.monotonic() - self._gone_checked_at >= RESYNC_S:
            self._release_gone_nodes()
            self._gone_checked_at = time.monotonic()
        cluster_blocks = addresses.parse_networks(peer.status.cluster_cidrs, field="clusterCIDRs")
        nodes, claims = self._caches.nodes, self._caches.claims
        by_name = {node.metadata.name: node for node in nodes}
        for name in plan.plan_returns(nodes):
            with self._retry_on_conflict():
                self._take_back(name)
        for claim in (*plan.plan_repairs(nodes, claims), *plan.plan_orphans(nodes, claims)):
            with self._retry_on_conflict():
                self._reconcile_claim(claim)
        now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        block_plan = plan.plan_grants(nodes, claims, cluster_blocks, now=now)
        for name, grants in itertools.groupby(sorted(block_plan.grants, key=_node_of), key=_node_of):
            with self._retry_on_conflict():
                self._grant_blocks(by_name[name], list(grants))
        for name, sentence in block_plan.refused.items():
            if self._refused.get(name) != sentence:
                self._report_refusal(name, sentence)
        self._refused = block_plan.refused
        return SOON_S if self._conflicted else RESYNC_S

    @contextlib.contextmanager
    def _retry_on_conflict(self) -> Iterator[None]:
        """Leave an object alone when it changed since the decision, and plan again soon."""
        try:
            yield
        except (errors.ConflictError, errors.AlreadyExistsError, errors.NotFoundError) as err:
            log.info("objects changed since this decision, retrying", extra={"error": str(err)})
            self._conflicted = True

    def _grant_blocks(self, decided_on: fleet.FleetNode, grants: list[plan.Grant]) -> None:
        """Allocate a node its next blocks: the Claims first."""
        name = decided_on.metadata.name
        for grant in grants:
            self._ensure_claim(grant)
        node = self._client.find(resource.FLEET_NODES, name, self._namespace)
        # A FleetNode that was created again has no first block yet, and its node may hold one.
        if node is None or node.metadata.uid != decided_on.metadata.uid:
            return
        # A block that it returned and has not seen taken yet is not granted again: the node would not notice.
        claimed = [str(grant.block) for grant in grants]
        new = [block for block in claimed if block not in (*node.spec.blocks, *node.status.blocks_returned)]
        if new:
            self._write_blocks(node, [*node.spec.blocks, *new])
            log.info("allocated blocks", extra={"blocks": new, "node": name})

    def _ensure_claim(self, grant: plan.Grant) -> None:
        spec = fleet.ClaimSpec(cidr=str(grant.block), purpose=plan.PURPOSE, owner=grant.node)
        if grant.claim is not None:
            claim = grant.claim
            if claim.spec == spec:
                # Written although it is right, so that a leader which is about to release it meets a conflict.
                claim = self._replace_claim(claim, msgspec.structs.replace(spec, released=self._now()))
            # The node's own, or a released one: written at the version that was decided on, so that the faster wins.
            self._replace_claim(claim, spec)
            return
        metadata = meta.ObjectMeta(name=addresses.claim_name(grant.block), namespace=self._namespace)
        self._client.create(resource.CLAIMS, fleet.Claim(metadata=metadata, spec=spec))

    def _take_back(self, name: str) -> None:
        """Take from a node what it has returned, and then release the Claims."""
        node = self._client.find(resource.FLEET_NODES, name, self._namespace)
        taken = plan.returned_blocks(node) if node is not None else []
        if node is None or not taken:
            return
        self._write_blocks(node, [block for block in node.spec.blocks if block not in taken])
        log.info("released blocks", extra={"blocks": taken, "node": name})
        for block in taken:
            claim_name = addresses.claim_name(addresses.parse_cidr(block, field="blocks"))
            claim = self._client.find(resource.CLAIMS, claim_name, self._namespace)
            if claim is not None:
                self._reconcile_claim(claim)

    def _reconcile_claim(self, claim: fleet.Claim) -> None:
        """Make a Claim agree with its owner's FleetNode."""
        node = self._client.find(resource.FLEET_NODES, claim.spec.owner, self._namespace)
        if node is None:
            return
        block = claim.spec.cidr
        if block in node.spec.blocks:
            spec = msgspec.structs.replace(claim.spec, released="", returned=False)
        elif not claim.spec.released:
            # Recorded now: once the node forgets that it returned the block, nobody knows whether it was empty.
            returned = block in node.status.blocks_returned
            spec = msgspec.structs.replace(claim.spec, released=self._now(), returned=returned)
        else:
            return
        if spec != claim.spec:
            self._replace_claim(claim, spec)

    def _write_blocks(self, node: fleet.FleetNode, shown: list[str]) -> None:
        """Write a node's blocks, unless the FleetNode changed since it was read."""
        metadata = {
            "name": node.metadata.name,
            "namespace": self._namespace,
            "resourceVersion": node.metadata.resource_version,
        }
        body = {"metadata": metadata, "spec": {"blocks": shown}}
        self._client.apply(resource.FLEET_NODES, body, manager=FIELD_MANAGER, keep_version=True)

    def _replace_claim(self, claim: fleet.Claim, spec: fleet.ClaimSpec) -> fleet.Claim:
        return self._client.replace(resource.CLAIMS, msgspec.structs.replace(claim, spec=spec))

    def _report_refusal(self, name: str, sentence: str) -> None:
        log.warning("%s", sentence, extra={"node": name})
        node = self._caches.node(name)
        if node is not None:
            ref = events.reference(resource.FLEET_NODES, node.metadata)
            self._recorder.emit(ref, reason="NoFreeBlock", message=sentence, type_="Warning")

    def _release_gone_nodes(self) -> None:
        """Delete FleetNodes of nodes that the cluster no longer has, and release their blocks."""
        live = {node.metadata.name for node in self._client.list(resource.NODES)[0]}
        for node in self._caches.nodes:
            if node.metadata.name not in live:
                self._client.delete(resource.FLEET_NODES, node.metadata.name, self._namespace, uid=node.metadata.uid)
                self._client.delete(resource.NODE_ATTACHMENTS, node.metadata.name, self._namespace)
                log.info("released the blocks of a node that is gone", extra={"node": node.metadata.name})
        for claim in plan.plan_releases(self._caches.claims, live):
            with self._retry_on_conflict():
                self._replace_claim(claim, msgspec.structs.replace(claim.spec, released=self._now()))

    def _now(self) -> str:
        return times.render(datetime.datetime.fromtimestamp(self._clock(), datetime.UTC))


def why_no_block(caches: Caches, *, node: str, cluster: str) -> str:
    """Return why no further block comes for ``node``, as far as the caches show; nothing when one is free."""
    peer = caches.peer(cluster)
    if peer is None:
        return ""
    now = datetime.datetime.now(datetime.UTC)
    cluster_blocks = addresses.parse_networks(peer.status.cluster_cidrs, field="clusterCIDRs")
    return plan.explain_exhaustion(node, caches.nodes, caches.claims, cluster_blocks, now=now)


def _node_of(grant: plan.Grant) -> str:
    return grant.node
