"""Writes ServiceImports and EndpointSlices of the clusterset's services into this cluster.

Invariant: the objects that syncer wrote are brought to the import plan. Until the hub has been listed, those that came
from other clusters stay as they are.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from fleetboard.kube import errors, index
from fleetboard.kube.client import Client
from fleetboard.kube.reflector import Mirrors, Reflector
from fleetboard.model import core, keys, mcs, meta, names, namespaces, resource, times
from fleetboard.model.keys import ServiceKey
from syncer.member.clusterset import Clusterset
from syncer.member.exports.sources import Sources
from syncer.member.imports import plan, schema
from syncer.member.settings import FIELD_MANAGER
from syncer.member.stopwatch import Stopwatch
from syncer.member.wakes import MemberBus, MemberSource
from syncer.rules import slices

log = logging.getLogger(__name__)


class ImportController:
    """Reconciles one imported service at a time; hand ``reconcile`` to one queue and ``write_status`` to another.

    Names and clients wait for imports and their endpoints, and nobody for the status: what was applied wakes it.
    """

    def __init__(
        self,
        local: Client,
        *,
        bus: MemberBus,
        sources: Sources,
        clusterset: Clusterset,
        cluster: str,
        accepted: namespaces.Namespaces,
        import_schema: schema.ImportSchema,
    ) -> None:
        self._bus, self._schema = bus, import_schema
        self._unwritten: dict[ServiceKey, plan.ImportPlan] = {}
        self._local, self._sources, self._clusterset = local, sources, clusterset
        self._cluster, self._accepted = cluster, accepted
        self.stopwatch = Stopwatch("import")
        self.imports = Reflector(local, import_schema.kind, notify=self._import_changed)
        self.namespaces = Reflector(local, resource.NAMESPACES, notify=self._namespace_changed)
        self.slices = Reflector(
            local,
            resource.ENDPOINT_SLICES,
            notify=self._slice_changed,
            selector=names.IMPORTED_SLICES,
        )
        self._by_service = index.Index(lambda: self.slices.store, _services_of)
        self._dropped: dict[ServiceKey, Mapping[str, int]] = {}
        self._written: dict[ServiceKey, frozenset[str]] = {}

    @property
    def reflectors(self) -> list[Mirrors]:
        """The reflectors of this cluster's API."""
        return [self.imports, self.namespaces, self.slices]

    @property
    def service_count(self) -> int:
        """The number of imported services."""
        return len(self.imports.store)

    def dropped(self) -> Mapping[str, int]:
        """Count refused addresses by source cluster."""
        total: collections.Counter[str] = collections.Counter()
        for by_cluster in list(self._dropped.values()):
            total.update(by_cluster)
        return total

    def service_keys(self) -> list[ServiceKey]:
        """Return every service that is, or was, imported."""
        imported = [keys.parse_slash(key) for key in list(self.imports.store)]
        sliced = [key for slice_ in list(self.slices.store.values()) for key in _services_of(slice_)]
        return list(dict.fromkeys([*imported, *sliced, *self._clusterset.service_keys()]))

    def reconcile(self, key: ServiceKey) -> float | None:
        """Bring this cluster to what the service's import plan says."""
        kube_namespace = self.namespaces.get(key.namespace)
        if kube_namespace is None or kube_namespace.metadata.deletion_timestamp:
            # Nothing can be written without its namespace, and everything in it is deleted with it.
            self._forget(key)
            return None
        merged = self._clusterset.service(key)
        if merged is None and not self._clusterset.is_synced:
            return None
        inputs = plan.ImportInputs(
            cluster=self._cluster,
            merged=merged,
            own=self._sources.plan(key),
            remote=self._clusterset.remote(key),
            blocks=self._clusterset.blocks(),
            families=self._clusterset.families(),
            current=self.imports.get(key.slash),
            accepted=self._accepted.accept(key.namespace),
            fields=self._schema.fields,
        )
        self._apply(key, plan.plan(inputs), inputs.current, kube_namespace)
        return None

    def _apply(
        self,
        key: ServiceKey,
        planned: plan.ImportPlan,
        current: mcs.ServiceImport | None,
        kube_namespace: core.Namespace,
    ) -> None:
        self._dropped[key] = planned.dropped
        slices_before = self._by_service.find(key)
        wrote = False
        failed: errors.ApiError | None = None
        if planned.action is plan.ImportAction.REMOVE:
            self._forget(key)
            if current is not None:
                wrote |= self._local.delete(self._schema.kind, key.name, key.namespace, uid=current.metadata.uid)
        else:
            try:
                current, wrote = self._write_import(key, planned, current)
            except errors.ApiError as err:
                if current is None:
                    raise
                # Traffic follows the endpoints, whatever is wrong with the ServiceImport.
                failed = err
            if current is not None:
                wrote |= self._write_slices(planned, slices_before, owners=(current, kube_namespace))
        for left in plan.obsolete_slices(slices_before, planned, cluster=self._cluster):
            metadata = left.metadata
            wrote |= self._local.delete(resource.ENDPOINT_SLICES, metadata.name, key.namespace, uid=metadata.uid)
        if failed is not None:
            raise failed
        if planned.action is not plan.ImportAction.REMOVE:
            self._unwritten[key] = planned
            self._bus.wake(MemberSource.APPLIED, key)
        self.stopwatch.stop(key, wrote=wrote)

    def write_status(self, key: ServiceKey) -> None:
        """Write into the ServiceImport's status what was last applied."""
        planned, current = self._unwritten.pop(key, None), self.imports.get(key.slash)
        if planned is None or current is None:
            return
        try:
            self._patch_status(planned, current)
        except errors.NotFoundError:
            return  # deleted meanwhile: its event enqueues the key again
        except errors.KubeError:
            self._unwritten.setdefault(key, planned)
            raise

    def _write_import(
        self, key: ServiceKey, planned: plan.ImportPlan, current: mcs.ServiceImport | None
    ) -> tuple[mcs.ServiceImport | None, bool]:
        wrote = False
        if planned.spec is not None and plan.needs_write(current, planned, written=self._written.get(key)):
            metadata = {"labels": dict(planned.labels), "annotations": dict(planned.annotations)}
            metadata |= {"name": key.name, "namespace": key.namespace}  # type: ignore[dict-item]
            spec = {field: value for field, value in msgspec.to_builtins(planned.spec).items() if value is not None}
            body = {"metadata": metadata, "spec": spec}
            current = self._local.apply(self._schema.kind, body, manager=FIELD_MANAGER)
            self.imports.remember(current)
            self._written[key] = plan.marks_of(planned)
            wrote = True
        return current, wrote

    def _patch_status(self, planned: plan.ImportPlan, current: mcs.ServiceImport) -> None:
        assert planned.ready is not None, "a plan that writes has a Ready condition"
        ready = msgspec.structs.replace(planned.ready, observed_generation=current.metadata.generation)
        conditions = meta.set_condition(current.status.conditions, ready, now=times.now())
        clusters = [mcs.ImportCluster(cluster=cluster) for cluster in planned.clusters]
        wanted = mcs.ServiceImportStatus(
            clusters=clusters,
            conditions=conditions,
            endpoint_slice_objects=planned.slice_objects if self._schema.slice_objects else "",
        )
        old = current.status
        old_conditions = sorted(old.conditions, key=lambda condition: condition.type)
        if wanted == msgspec.structs.replace(old, conditions=old_conditions):
            return
        status: dict[str, Any] = {"clusters": clusters, "conditions": conditions}
        if wanted.endpoint_slice_objects:
            status["endpointSliceObjects"] = wanted.endpoint_slice_objects
        self.imports.remember(self._local.patch_status(self._schema.kind, current, status))

    def _write_slices(
        self,
        planned: plan.ImportPlan,
        slices_before: list[core.EndpointSlice],
        *,
        owners: tuple[mcs.ServiceImport, core.Namespace],
    ) -> bool:
        by_name = {slice_.metadata.name: slice_ for slice_ in slices_before}
        wrote = False
        for wanted in planned.slices:
            placed = slices.place(wanted, namespace=owners[0].metadata.namespace, owners=owners)
            found = by_name.get(wanted.metadata.name)
            if found is None or not slices.is_same(found, placed):
                self.slices.remember(self._local.put(resource.ENDPOINT_SLICES, placed, current=found))
                wrote = True
        return wrote

    def _forget(self, key: ServiceKey) -> None:
        self._unwritten.pop(key, None)
        self._dropped.pop(key, None)
        self._written.pop(key, None)

    def _import_changed(self, key: str) -> None:
        self._bus.wake(MemberSource.IMPORT, keys.parse_slash(key))

    def _slice_changed(self, key: str) -> None:
        for service in self._by_service.update(key):
            self._bus.wake(MemberSource.IMPORT, service)

    def _namespace_changed(self, key: str) -> None:
        existing = list(self.namespaces.store)
        self._clusterset.follow(frozenset(name for name in existing if self._accepted.accept(name)))
        for service in self.service_keys():
            if service.namespace == key:
                self._bus.wake(MemberSource.IMPORT, service)


def _services_of(slice_: core.EndpointSlice) -> frozenset[ServiceKey]:
    key = keys.of_imported(slice_)
    return frozenset() if key is None else frozenset({key})
