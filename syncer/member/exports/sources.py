"""What this cluster has to export: ServiceExports, Services, EndpointSlices and the pods' fleet addresses.

Invariant: every change that may alter a service's export plan wakes that service, whichever object changed.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping

from fleetboard.kube import index
from fleetboard.kube.client import Client
from fleetboard.kube.reflector import Mirrors, Reflector
from fleetboard.model import core, fleet, keys, mcs, names, resource
from fleetboard.model.addresses import Address
from fleetboard.model.keys import ServiceKey
from syncer.member.exports import plan as exports_plan
from syncer.member.wakes import MemberBus, MemberSource

log = logging.getLogger(__name__)

SLICE_SELECTOR = f"{names.LABEL_KUBE_SERVICE_NAME},{names.LABEL_MANAGED_BY}!={names.MANAGED_BY}"

_PodAddresses = Mapping[str, tuple[Address, ...]]


class Sources:
    """Watches this cluster's API, and wakes each service whose export plan may differ.

    ``kind`` is the ServiceExport in the version to use.
    """

    def __init__(
        self,
        local: Client,
        *,
        bus: MemberBus,
        namespace: str,
        cluster: str,
        kind: resource.Resource[mcs.ServiceExport] = resource.SERVICE_EXPORTS,
    ) -> None:
        self._cluster, self._bus, self.kind = cluster, bus, kind
        self.exports = Reflector(local, kind, notify=self._export_changed)
        self.services = Reflector(local, resource.SERVICES, notify=self._service_changed)
        self.slices = Reflector(local, resource.ENDPOINT_SLICES, notify=self._slice_changed, selector=SLICE_SELECTOR)
        self.attachments = Reflector(
            local, resource.NODE_ATTACHMENTS, notify=self._attachments_changed, namespace=namespace
        )
        self._by_service = index.Index(lambda: self.slices.store, _service_of)
        self._by_pod = index.Index(lambda: self.slices.store, _pods_of)
        # One writer, the attachments' reflector; readers see a node's pods replaced as a whole.
        self._nodes: dict[str, _PodAddresses] = {}
        self._addresses: dict[str, tuple[Address, ...]] = {}

    @property
    def reflectors(self) -> list[Mirrors]:
        """The reflectors of this cluster's API."""
        return [self.exports, self.services, self.slices, self.attachments]

    def service_keys(self) -> list[ServiceKey]:
        """Return every service that has a ServiceExport."""
        return [keys.parse_slash(key) for key in list(self.exports.store)]

    def plan(self, key: ServiceKey) -> exports_plan.ExportPlan:
        """Decide what this cluster publishes for a service."""
        service_export = self.exports.get(key.slash)
        if service_export is None:
            return exports_plan.NOTHING
        source = exports_plan.ExportInputs(
            key=key,
            export=service_export,
            service=self.services.get(key.slash),
            slices=self._by_service.find(key),
        )
        return exports_plan.plan(source, cluster=self._cluster, addresses_of=self.addresses_of)

    def addresses_of(self, uid: str) -> tuple[Address, ...]:
        """Return the fleet addresses that cnf attached to the pod ``uid``."""
        return self._addresses.get(uid, ())

    def _export_changed(self, key: str) -> None:
        self._bus.wake(MemberSource.EXPORT, keys.parse_slash(key))

    def _service_changed(self, key: str) -> None:
        self._wake_exported(keys.parse_slash(key))

    def _wake_exported(self, key: ServiceKey) -> None:
        # Nobody needs a service without an export; a new export has an event of its own.
        if self.exports.get(key.slash) is not None:
            self._bus.wake(MemberSource.EXPORT, key)

    def _slice_changed(self, key: str) -> None:
        self._by_pod.update(key)
        for service in self._by_service.update(key):
            self._wake_exported(service)

    def _attachments_changed(self, key: str) -> None:
        node = self.attachments.get(key)
        old = self._nodes.pop(key, {})
        new = addresses_by_pod(node) if node is not None else {}
        if new:
            self._nodes[key] = new
        changed = [uid for uid in old.keys() | new.keys() if old.get(uid) != new.get(uid)]
        for uid in changed:
            if uid in new:
                self._addresses[uid] = new[uid]
            else:
                self._addresses.pop(uid, None)
        services = {service for uid in changed for slice_ in self._by_pod.find(uid) for service in _service_of(slice_)}
        for service in services:
            self._wake_exported(service)


def addresses_by_pod(node: fleet.NodeAttachments) -> _PodAddresses:
    """Collect a node's fleet addresses by pod UID."""
    found: dict[str, tuple[Address, ...]] = {}
    for attachment in node.attachments:
        try:
            parsed = tuple(ipaddress.ip_address(text.partition("/")[0]) for text in attachment.addresses)
        except ValueError as err:
            # One invalid entry must not end the process at every start.
            log.warning("left out an invalid attachment", extra={"node": node.metadata.name, "error": str(err)})
            continue
        found[attachment.pod_uid] = found.get(attachment.pod_uid, ()) + parsed
    return found


def _service_of(slice_: core.EndpointSlice) -> frozenset[ServiceKey]:
    name = slice_.metadata.labels.get(names.LABEL_KUBE_SERVICE_NAME, "")
    return frozenset({ServiceKey(slice_.metadata.namespace, name)}) if name else frozenset()


def _pods_of(slice_: core.EndpointSlice) -> frozenset[str]:
    references = [endpoint.target_ref for endpoint in slice_.endpoints or ()]
    return frozenset(reference.uid for reference in references if reference is not None and reference.uid)
