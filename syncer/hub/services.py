"""Merges all exports of a name into one FleetService, whose virtual addresses stay for its life.

Invariant: an export that can't be used is left out of its own service and affects no other. The precedence of the
remaining exports does not change.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from fleetboard.kube import encoding, events
from fleetboard.model import fleet, names, resource
from syncer.hub import merge, precedence
from syncer.hub.metrics import HubMetrics
from syncer.hub.settings import FIELD_MANAGER
from syncer.hub.view import View, name_of, namespace_of
from syncer.rules import admission, allocation

log = logging.getLogger(__name__)


class FleetServiceController:
    """Reconciles one service at a time; keys are ``<namespace>.<service>``."""

    def __init__(
        self, view: View, *, metrics: HubMetrics, recorder: events.Recorder, enqueue: Callable[[str], None]
    ) -> None:
        self._view = view
        self._metrics = metrics
        self._recorder = recorder
        self._enqueue = enqueue
        self._lock = threading.Lock()
        self._exporters: dict[str, set[str]] = {}
        self._export_rights: dict[str, object] = {}

    def begin(self) -> list[str]:
        """Begin a term: return every service that is exported, merged or remembered, or has an address."""
        merged = {service.metadata.name for service in list(self._view.services.store.values())}
        remembered = {name_of(key).removeprefix(precedence.PREFIX) for key in list(self._view.records.store)}
        with self._lock:
            exported = set(self._exporters)
        return sorted(merged | remembered | exported | self._view.claims.owners(allocation.VIP))

    def export_changed(self, key: str) -> None:
        """Record that an ExportedService changed, and enqueue its service."""
        if self._view.cluster_of(namespace_of(key)) is None:
            return
        name = name_of(key)
        with self._lock:
            if self._view.exports.get(key) is not None:
                self._exporters.setdefault(name, set()).add(key)
            elif name in self._exporters:
                self._exporters[name].discard(key)
                if not self._exporters[name]:
                    del self._exporters[name]
        self._enqueue(name)

    def peer_changed(self, cluster: str) -> None:
        """Enqueue the member's services if the change of its Peer changes what it may export."""
        peer = self._view.peer(cluster)
        rights = None if peer is None else (admission.is_admitted(peer), tuple(peer.spec.export_namespaces))
        if self._export_rights.get(cluster) == rights:
            return
        self._export_rights[cluster] = rights
        member_namespace = names.member_namespace(self._view.clusterset.name, cluster)
        with self._lock:
            concerned = [name for name, keys in self._exporters.items() if f"{member_namespace}/{name}" in keys]
        for name in concerned:
            self._enqueue(name)

    def reconcile(self, key: str) -> float | None:
        """Bring one FleetService to the merge of its exports."""
        now = self._view.now()
        exported = self._exports(key)
        service = self._view.service(key)
        record = self._view.record(precedence.record_name(key))
        before = precedence.read(service, record)
        present = {cluster: export.metadata.creation_timestamp for cluster, export in exported.items()}
        updated = precedence.update(before, present, now=now)
        if set(updated.ended) - set(before.ended):
            # Written before the FleetService drops them. Exports that returned leave the record after it.
            again = [entry for entry in before.ended if entry.cluster in present]
            self._remember(key, (*updated.ended, *again))
        if exported:
            self._merge(key, exported, updated.live, service)
        else:
            self._end(key, service)
        if updated.ended != before.ended:
            self._remember(key, updated.ended)
        return precedence.next_expiry_s(updated.ended, now=now)

    def _exports(self, key: str) -> dict[str, fleet.ExportedService]:
        with self._lock:
            keys = sorted(self._exporters.get(key, ()))
        found: dict[str, fleet.ExportedService] = {}
        for object_key in keys:
            cluster = self._view.cluster_of(namespace_of(object_key))
            peer = self._view.peer(cluster) if cluster is not None else None
            exported = self._view.exports.get(object_key)
            if cluster is None or peer is None or exported is None or not admission.is_admitted(peer):
                continue
            refused = admission.refuse_export(peer, exported)
            if refused is None:
                found[cluster] = exported
            else:
                self._report_refusal(cluster, exported, refused)
        return found

    def _merge(
        self,
        key: str,
        exported: Mapping[str, fleet.ExportedService],
        first_seen: Mapping[str, str],
        service: fleet.FleetService | None,
    ) -> None:
        exports = [merge.Export(cluster, first_seen[cluster], export.spec) for cluster, export in exported.items()]
        families = self._view.clusterset.families
        spec = merge.merge(exports, families=families)
        if spec.type == merge.HEADLESS:
            self._view.claims.release(allocation.VIP, key)
        else:
            claimed = [self._view.claims.vip(layout, key) for layout in self._view.clusterset.layouts]
            vips = [str(unit.network_address) for unit in claimed]
            spec = merge.merge(exports, vips=vips, families=families)
        if service is not None and service.spec == spec:
            return
        labels = {names.LABEL_CLUSTERSET: self._view.clusterset.name}
        metadata = {"name": key, "namespace": self._view.clusterset.namespace, "labels": labels}
        body = {"metadata": metadata, "spec": render_spec(spec)}
        self._view.services.remember(self._view.client.put(resource.FLEET_SERVICES, body, current=service))
        log.info(
            "service merged",
            extra={"service": key, "clusters": [one.cluster for one in spec.constituents], "vips": spec.vips},
        )

    def _end(self, key: str, service: fleet.FleetService | None) -> None:
        if service is not None:
            self._view.client.delete(
                resource.FLEET_SERVICES, key, self._view.clusterset.namespace, uid=service.metadata.uid
            )
            log.info("deleted a service: no export is left", extra={"service": key})
        self._view.claims.release(allocation.VIP, key)

    def _remember(self, key: str, ended: tuple[precedence.EndedExport, ...]) -> None:
        clusterset = self._view.clusterset.name
        if ended:
            rendered = precedence.render(key, ended, clusterset=clusterset)
            self._view.client.apply(resource.CONFIG_MAPS, rendered, manager=FIELD_MANAGER)
        else:
            self._view.client.delete(resource.CONFIG_MAPS, precedence.record_name(key), self._view.clusterset.namespace)

    def _report_refusal(self, cluster: str, exported: fleet.ExportedService, reason: str) -> None:
        self._metrics.exports_refused.labels(cluster).inc()
        metadata = exported.metadata
        log.warning("refused an export", extra={"cluster": cluster, "export": metadata.key, "reason": reason})
        regarding = events.reference(resource.EXPORTED_SERVICES, metadata)
        self._recorder.emit(regarding, reason="ExportRefused", message=reason, type_="Warning")


def render_spec(spec: fleet.FleetServiceSpec) -> dict[str, Any]:
    """Render a spec with its defaults written out, for readers that have other defaults."""
    return {encoded: msgspec.to_builtins(getattr(spec, name)) for name, encoded in encoding.field_names(type(spec))}
