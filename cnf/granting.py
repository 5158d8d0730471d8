"""The leader's duty to give nodes their blocks.

One invariant: a Claim is written before the FleetNode shows its block, and only by the leader; a leader that died in
between is finished by the next.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable

import msgspec

from cnf import blocks, caches
from cnf.tunnel import parse
from fleetboard.kube import client as kube_client
from fleetboard.kube import errors, events
from fleetboard.model import addresses, fleet, meta, resource

log = logging.getLogger(__name__)

MANAGER = "cnf-leader"
AGAIN_S = 30.0


class Granting:
    """Reconciles the blocks of all nodes while ``leading`` says so."""

    def __init__(
        self,
        client: kube_client.Client,
        namespace: str,
        cluster: str,
        known: caches.Caches,
        *,
        leading: Callable[[], bool],
        recorder: events.Recorder,
    ) -> None:
        self._client, self._namespace, self._cluster, self._known = client, namespace, cluster, known
        self._leading, self._recorder = leading, recorder
        self._looked = float("-inf")  # for nodes that are gone; on the monotonic clock
        self._refused: dict[str, str] = {}

    def reconcile(self, _key: str) -> float | None:
        """Grant what is wanted; return when to look again."""
        peer = self._known.peer(self._cluster)
        if not self._leading() or peer is None:
            return None
        # Every node is a large object, and every pod that starts somewhere is an event that brings us here.
        if time.monotonic() - self._looked >= AGAIN_S:
            self._forget_gone_nodes()
            self._looked = time.monotonic()
        cluster_blocks = parse.parse_networks(peer.status.cluster_cidrs, field="clusterCIDRs")
        now = datetime.datetime.now(datetime.UTC)
        decision = blocks.plan_grants(self._known.nodes, self._known.claims, cluster_blocks, now=now)
        for grant in decision.grants:
            self._grant(grant)
        for name, sentence in decision.refused.items():
            if self._refused.get(name) != sentence:
                self._refuse(name, sentence)
        self._refused = decision.refused
        return AGAIN_S

    def _grant(self, grant: blocks.Grant) -> None:
        name = addresses.claim_name(grant.block)
        spec = fleet.ClaimSpec(cidr=str(grant.block), purpose=blocks.PURPOSE, owner=grant.node)
        claim = fleet.Claim(metadata=meta.ObjectMeta(name=name, namespace=self._namespace), spec=spec)
        if grant.claim is not None:
            # Its own, or a tombstone: written with the version that was decided on, so that whoever was faster wins.
            if grant.claim.spec != spec:
                self._client.replace(resource.CLAIMS, msgspec.structs.replace(grant.claim, spec=spec))
        else:
            try:
                self._client.create(resource.CLAIMS, claim)
            except errors.AlreadyExistsError:
                log.info("block was taken in the meantime", extra={"block": str(grant.block), "node": grant.node})
                return
        node = self._client.get(resource.FLEET_NODES, grant.node, self._namespace)
        shown = [*node.spec.blocks, *([] if str(grant.block) in node.spec.blocks else [str(grant.block)])]
        body = {
            "metadata": {"name": grant.node, "namespace": self._namespace},
            "spec": {"blocks": shown},
        }
        self._client.apply(resource.FLEET_NODES, body, manager=MANAGER)
        log.info("block given", extra={"block": str(grant.block), "node": grant.node})

    def _refuse(self, name: str, sentence: str) -> None:
        log.warning("%s", sentence, extra={"node": name})
        node = self._known.node(name)
        if node is not None:
            ref = {
                "apiVersion": fleet.API_VERSION,
                "kind": "FleetNode",
                "name": name,
                "namespace": self._namespace,
                "uid": node.metadata.uid,
            }
            self._recorder.emit(ref, reason="NoFreeBlock", message=sentence, type_="Warning")

    def _forget_gone_nodes(self) -> None:
        """Delete FleetNodes of nodes that the cluster no longer has, and mark their blocks as released."""
        live = {node.metadata.name for node in self._client.list(resource.NODES)[0]}
        for node in self._known.nodes:
            if node.metadata.name not in live:
                self._client.delete(resource.FLEET_NODES, node.metadata.name, self._namespace, uid=node.metadata.uid)
                self._client.delete(resource.NODE_ATTACHMENTS, node.metadata.name, self._namespace)
                log.info("node is gone, its blocks are released", extra={"node": node.metadata.name})
        released = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        for claim in blocks.plan_releases(self._known.claims, live):
            spec = msgspec.structs.replace(claim.spec, released=released)
            self._client.replace(resource.CLAIMS, msgspec.structs.replace(claim, spec=spec))
