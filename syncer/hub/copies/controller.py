"""Copies members' EndpointSlices into the clusterset's namespace, where all members read them.

Invariant: a copy exists exactly while its source does and the source's cluster is admitted. The merge of the service
plays no part, so that a changed endpoint reaches the other members by one write.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from fleetboard.model import core, fleet, names, resource
from syncer.hub.copies import plan
from syncer.hub.metrics import HubMetrics
from syncer.hub.view import View, name_of, namespace_of
from syncer.rules import admission, slices

log = logging.getLogger(__name__)


class CopyController:
    """Reconciles one copy at a time; keys are the copies' names."""

    def __init__(
        self,
        view: View,
        *,
        metrics: HubMetrics,
        enqueue: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view = view
        self._metrics = metrics
        self._enqueue = enqueue
        self._clock = clock
        self._lock = threading.Lock()
        self._sources: dict[str, str] = {}
        self._changed_at: dict[str, float] = {}
        self._rights: dict[str, object] = {}

    def begin(self) -> list[str]:
        """Begin a term: return the name of every copy there is or should be."""
        namespace = self._view.clusterset.namespace
        existing = {
            slice_.metadata.name
            for slice_ in list(self._view.slices.store.values())
            if slice_.metadata.namespace == namespace
        }
        with self._lock:
            self._changed_at.clear()
            return sorted(existing | self._sources.keys())

    def slice_changed(self, key: str) -> None:
        """Record that a slice changed, a member's or a copy, and enqueue the copy."""
        namespace = namespace_of(key)
        cluster = self._view.cluster_of(namespace)
        if cluster is not None:
            name = plan.copy_name(cluster, name_of(key))
            with self._lock:
                self._sources[name] = key
                self._changed_at.setdefault(name, self._clock())
            self._enqueue(name)
        elif namespace == self._view.clusterset.namespace:
            self._enqueue(name_of(key))

    def peer_changed(self, cluster: str) -> None:
        """Enqueue the member's copies if the change of its Peer changes what may be copied."""
        peer = self._view.peer(cluster)
        rights = _rights_of(peer)
        if self._rights.get(cluster) == rights:
            return
        self._rights[cluster] = rights
        member_namespace = names.member_namespace(self._view.clusterset.name, cluster)
        with self._lock:
            concerned = [name for name, key in self._sources.items() if namespace_of(key) == member_namespace]
        for name in concerned:
            self._enqueue(name)

    def reconcile(self, name: str) -> None:
        """Bring one copy to its plan."""
        with self._lock:
            key = self._sources.get(name, "")
            changed_at = self._changed_at.pop(name, None)
        cluster = self._view.cluster_of(namespace_of(key)) if key else None
        source = self._view.slices.get(key) if key else None
        if source is None or cluster is None:
            self._remove(name)
            with self._lock:
                # Unless it was created again meanwhile, which is another event with its own key.
                if self._view.slices.get(key) is None and name not in self._changed_at:
                    self._sources.pop(name, None)
            return
        peer = self._view.peer(cluster)
        planned = plan.plan(source, cluster=cluster, peer=peer, clusterset=self._view.clusterset.name)
        if planned.slice is None:
            self._report_refusal(key, cluster, planned.refused)
            self._remove(name)
            return
        if self._write(planned.slice):
            self._metrics.slices_copied.labels(cluster).inc()
            if planned.dropped:
                self._metrics.addresses_dropped.labels(cluster).inc(planned.dropped)
                log.warning(
                    "dropped addresses outside the cluster's blocks",
                    extra={"cluster": cluster, "slice": key, "dropped": planned.dropped},
                )
            if changed_at is not None:
                self._metrics.copy_seconds.observe(self._clock() - changed_at)

    def _write(self, wanted: core.EndpointSlice) -> bool:
        client = self._view.client
        current = self._view.slices.get(wanted.metadata.key)
        if current is not None and slices.is_same(current, wanted, exact=True):
            return False
        if current is not None and current.address_type != wanted.address_type:
            client.delete(resource.ENDPOINT_SLICES, current.metadata.name, current.metadata.namespace)
            current = None
        self._view.slices.remember(client.put(resource.ENDPOINT_SLICES, wanted, current=current))
        return True

    def _remove(self, name: str) -> None:
        namespace = self._view.clusterset.namespace
        found = self._view.slices.get(f"{namespace}/{name}")
        if found is None:
            return
        if self._view.client.delete(resource.ENDPOINT_SLICES, name, namespace):
            cluster = found.metadata.labels.get(names.LABEL_SOURCE_CLUSTER, "")
            self._metrics.slices_copied.labels(cluster).inc()

    def _report_refusal(self, key: str, cluster: str, reason: str) -> None:
        self._metrics.slices_refused.labels(cluster).inc()
        log.info("did not copy a slice", extra={"cluster": cluster, "slice": key, "reason": reason})


def _rights_of(peer: fleet.Peer | None) -> object:
    if peer is None or not admission.is_admitted(peer):
        return None
    return (tuple(peer.status.cluster_cidrs), tuple(peer.spec.export_namespaces))
