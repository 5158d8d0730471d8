"""Writes this cluster's exports to its namespace on the hub, and the result into each ServiceExport.

Invariant: this cluster's namespace on the hub is brought to the export plans. What no plan wants is deleted there, but
never before all of this cluster's own objects have been listed.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections.abc import Callable, Sequence

import msgspec

from fleetboard.kube import backoff, errors, index
from fleetboard.kube.client import Client
from fleetboard.kube.reflector import Mirrors, Reflector
from fleetboard.model import core, fleet, keys, names, resource, times
from fleetboard.model.keys import ServiceKey
from syncer.member.clusterset import RETRY_CAP_S, Clusterset
from syncer.member.exports import conditions, plan
from syncer.member.exports.sources import Sources
from syncer.member.report import plan as report_plan
from syncer.member.stopwatch import Stopwatch
from syncer.member.wakes import MemberBus, MemberSource
from syncer.rules import admission, slices

log = logging.getLogger(__name__)

MERGE_S = 3.0
"""Grace period before an unmerged export is reported as pending; a merge usually takes 0.1 s.

A busy hub takes longer; without the grace period each export would then cost a second status write."""
_AWAY_RETRY_S = (0.5, 1.5)
_REFUSED_RETRY_S = 30.0
_OLDER_HUB_RETRY_S = 600.0
"""Pause before fields that an older hub's schema lacks are sent again."""


@dataclasses.dataclass(frozen=True, slots=True)
class _DatedDelivery:
    """How far an export got, whether there was one at all, and since when."""

    delivery: conditions.Delivery
    exported: bool
    since: float


@dataclasses.dataclass(frozen=True, slots=True)
class _Pruned:
    """What was sent of an export, what an older hub stored of it, and when."""

    sent: fleet.ExportedServiceSpec
    kept: fleet.ExportedServiceSpec
    at: float


class ExportController:
    """Reconciles one service's export at a time; hand ``reconcile`` to one queue and ``write_status`` to another.

    What users are told waits for what carries their traffic: a delivery wakes the status.
    """

    def __init__(
        self,
        local: Client,
        hub: Client,
        *,
        bus: MemberBus,
        sources: Sources,
        clusterset: Clusterset,
        cluster: str,
        member_namespace: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._local, self._hub = local, hub
        self._sources, self._clusterset = sources, clusterset
        self._cluster, self._namespace = cluster, member_namespace
        self._bus, self._clock = bus, clock
        self._deliveries: dict[ServiceKey, _DatedDelivery] = {}
        self.stopwatch = Stopwatch("export")
        self.exported = Reflector(
            hub,
            resource.EXPORTED_SERVICES,
            notify=self._exported_changed,
            namespace=member_namespace,
            retry=backoff.Backoff(base_s=0.25, cap_s=RETRY_CAP_S),
        )
        self.slices = Reflector(
            hub,
            resource.ENDPOINT_SLICES,
            notify=self._slice_changed,
            namespace=member_namespace,
            selector=f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}",
            retry=backoff.Backoff(base_s=0.25, cap_s=RETRY_CAP_S),
        )
        self._by_service = index.Index(lambda: self.slices.store, _services_of)
        self._pruned: dict[ServiceKey, _Pruned] = {}
        self._endpoints: dict[ServiceKey, int] = {}

    @property
    def reflectors(self) -> list[Mirrors]:
        """The reflectors of the hub's API."""
        return [self.exported, self.slices]

    @property
    def service_count(self) -> int:
        """The number of services that this cluster exports."""
        return len(self._endpoints)

    @property
    def endpoints(self) -> int:
        """The number of their endpoints."""
        return sum(list(self._endpoints.values()))

    def service_keys(self) -> list[ServiceKey]:
        """Return every service that has an object in this cluster's namespace on the hub."""
        exported = [service for key in list(self.exported.store) if (service := keys.parse_dotted(key)) is not None]
        return [*exported, *(key for slice_ in list(self.slices.store.values()) for key in _services_of(slice_))]

    def reconcile(self, key: ServiceKey) -> float | None:
        """Bring the hub to what the service's export plan says."""
        planned = self._sources.plan(key)
        if planned.exported is not None:
            self._endpoints[key] = planned.endpoints
        else:
            self._endpoints.pop(key, None)
        failure: errors.KubeError | None = None
        try:
            delivery, again_s = self._deliver(key, planned)
        except errors.KubeError as err:
            failure, again_s = err, None
            delivery = conditions.Delivery(pending=f"The hub failed: {err}.")
        self._record_delivery(key, planned, delivery)
        self._bus.wake(MemberSource.DELIVERY, key)
        if failure is not None:
            # The queue retries, after a growing pause.
            raise failure
        return again_s

    def write_status(self, key: ServiceKey) -> float | None:
        """Write into the service's ServiceExport what became of it."""
        planned, service_export = self._sources.plan(key), self._sources.exports.get(key.slash)
        dated = self._deliveries.get(key)
        if service_export is None or not planned.valid or dated is None:
            return None
        delivery = dated.delivery
        merged = self._clusterset.service(key)
        left_s = dated.since + MERGE_S - self._clock()
        if delivery.written and planned.exported and not conditions.is_member(merged, self._cluster) and left_s > 0:
            return left_s
        wanted = conditions.plan(
            service_export, planned, delivery=delivery, merged=merged, cluster=self._cluster, now=times.now()
        )
        if wanted == sorted(service_export.status.conditions, key=lambda condition: condition.type):
            return None
        try:
            written = self._local.patch_status(self._sources.kind, service_export, {"conditions": wanted})
        except errors.NotFoundError:
            # Deleted meanwhile: its event enqueues the key again.
            return None
        self._sources.exports.remember(written)
        return None

    def _record_delivery(self, key: ServiceKey, planned: plan.ExportPlan, delivery: conditions.Delivery) -> None:
        if not planned.valid:
            self._deliveries.pop(key, None)
            return
        exported = planned.exported is not None
        last = self._deliveries.get(key)
        # A Service that returns is written again, and waits again for the hub to merge it.
        same = last is not None and (last.delivery, last.exported) == (delivery, exported)
        since = last.since if last is not None and same else self._clock()
        self._deliveries[key] = _DatedDelivery(delivery, exported, since)

    def _deliver(self, key: ServiceKey, planned: plan.ExportPlan) -> tuple[conditions.Delivery, float | None]:
        if not all(reflector.synced.is_set() for reflector in self.reflectors):
            # First contact enqueues every key again.
            return conditions.Delivery(pending="The hub has not been reached yet."), None
        peer = self._clusterset.peer(self._cluster)
        decision = report_plan.admission(peer)
        if peer is None or decision is None or decision.status != "True":
            reason = decision.message if decision is not None else "it has not decided yet"
            return conditions.Delivery(pending=f"The hub has not admitted this cluster: {reason}"), None
        refused = ""
        if planned.exported is not None:
            spec = planned.exported.spec
            problem = admission.refuse_service(peer, namespace=spec.namespace, name=spec.name)
            refused = problem or admission.refuse_size(spec) or admission.refuse_ports(spec.ports) or ""
        try:
            whole = self._write(key, plan.NOTHING if refused else planned)
        except errors.UnreachableError as err:
            return conditions.Delivery(pending=f"The hub can't be reached: {err}."), random.uniform(*_AWAY_RETRY_S)
        except (errors.ForbiddenError, errors.InvalidError) as err:
            log.warning("the hub refused an export", extra={"key": str(key), "error": str(err)})
            return conditions.Delivery(refused=f"The hub refuses the export: {err}."), _REFUSED_RETRY_S
        if refused:
            return conditions.Delivery(refused=f"The hub refuses the export: {refused}."), None
        return conditions.Delivery(written=True), None if whole else _OLDER_HUB_RETRY_S

    def _write(self, key: ServiceKey, planned: plan.ExportPlan) -> bool:
        """Bring the hub to the plan; tell whether it stored all of it."""
        current = self.exported.get(f"{self._namespace}/{key.dotted}")
        wrote, whole = False, True
        if planned.exported is None and current is not None:
            self._hub.delete(resource.EXPORTED_SERVICES, key.dotted, self._namespace)
            wrote = True
            self._pruned.pop(key, None)
        elif planned.exported is not None:
            wrote = not self._is_taken(key, planned.exported.spec, current)
            if wrote:
                current = self._send(key, _placed(planned.exported, self._namespace), current)
            whole = current is not None and current.spec == planned.exported.spec
        wrote |= self._write_slices(key, planned.slices)
        self.stopwatch.stop(key, wrote=wrote)
        return whole

    def _write_slices(self, key: ServiceKey, planned: Sequence[core.EndpointSlice]) -> bool:
        """Bring the hub's slices to the plan, new ones before the old ones go; tell whether any was written."""
        current = {slice_.metadata.name: slice_ for slice_ in self._by_service.find(key)}
        surplus = list(current.keys() - {wanted.metadata.name for wanted in planned})
        wrote = False
        for wanted in planned:
            found = current.get(wanted.metadata.name)
            if found is not None and slices.is_same(found, wanted):
                continue
            placed = slices.place(wanted, namespace=self._namespace)
            try:
                written = self._hub.put(resource.ENDPOINT_SLICES, placed, current=found)
            except errors.ForbiddenError:
                if not surplus:
                    raise
                # At a full quota, new slices fit only once old ones are deleted.
                self._delete_slices(surplus)
                surplus = []
                written = self._hub.put(resource.ENDPOINT_SLICES, placed, current=found)
            self.slices.remember(written)
            wrote = True
        return self._delete_slices(surplus) or wrote

    def _delete_slices(self, surplus: Sequence[str]) -> bool:
        for name in surplus:
            self._hub.delete(resource.ENDPOINT_SLICES, name, self._namespace)
        return bool(surplus)

    def _is_taken(
        self, key: ServiceKey, wanted: fleet.ExportedServiceSpec, current: fleet.ExportedService | None
    ) -> bool:
        """Return whether the hub has ``wanted``, or what an older hub recently made of it."""
        if current is None or current.spec == wanted:
            return current is not None
        pruned = self._pruned.get(key)
        if pruned is None or self._clock() >= pruned.at + _OLDER_HUB_RETRY_S:
            return False
        return (pruned.sent, pruned.kept) == (wanted, current.spec)

    def _send(
        self, key: ServiceKey, exported: fleet.ExportedService, current: fleet.ExportedService | None
    ) -> fleet.ExportedService:
        """Write one export and return what was stored: a hub whose schema lacks fields drops them."""
        written = self._hub.put(resource.EXPORTED_SERVICES, exported, current=current)
        if written.spec == exported.spec:
            self._pruned.pop(key, None)
        else:
            if not self._pruned:
                log.warning("the hub is older than this cluster and drops fields of exports")
            self._pruned[key] = _Pruned(exported.spec, written.spec, self._clock())
        self.exported.remember(written)
        return written

    def _exported_changed(self, key: str) -> None:
        service = keys.parse_dotted(key)
        if service is None:
            log.warning("unexpected object in this cluster's namespace on the hub", extra={"key": key})
            return
        self._bus.wake(MemberSource.HUB_EXPORT, service)

    def _slice_changed(self, key: str) -> None:
        for service in self._by_service.update(key):
            self._bus.wake(MemberSource.HUB_EXPORT, service)


def _placed(exported: fleet.ExportedService, namespace: str) -> fleet.ExportedService:
    metadata = msgspec.structs.replace(exported.metadata, namespace=namespace)
    return msgspec.structs.replace(exported, metadata=metadata)


def _services_of(slice_: core.EndpointSlice) -> frozenset[ServiceKey]:
    """Name the service of a slice by the slice's own name."""
    parts = slice_.metadata.name.split(".")
    return frozenset({ServiceKey(parts[0], parts[1])}) if len(parts) > 1 else frozenset()
