"""What this cluster has to export: ServiceExports, Services, EndpointSlices and the pods' fleet addresses.

One invariant: every change that may alter a service's export plan is reported under that service's key, whichever
object it happened to.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Mapping

from fleetboard.kube import index
from fleetboard.kube.client import Client
from fleetboard.kube.reflector import Reflector
from fleetboard.model import core, fleet, mcs, names, resource
from fleetboard.model.addresses import Address
from syncer.member.exports import plan as export_plan

log = logging.getLogger(__name__)

SLICE_SELECTOR = f"{names.LABEL_KUBE_SERVICE_NAME},{names.LABEL_MANAGED_BY}!={names.MANAGER}"

_PodAddresses = Mapping[str, tuple[Address, ...]]


class Sources:
    """Watch this cluster's API; ``notify`` gets ``namespace/name`` of each service whose export plan may differ.

    ``kind`` is the ServiceExport in the version to speak.
    """

    def __init__(
        self,
        local: Client,
        *,
        namespace: str,
        cluster: str,
        notify: Callable[[str], None],
        kind: resource.Resource[mcs.ServiceExport] = resource.SERVICE_EXPORTS,
    ) -> None:
        self._cluster, self._notify, self.kind = cluster, notify, kind
        self.exports = Reflector(local, kind, notify=notify)
        self.services = Reflector(local, resource.SERVICES, notify=self._exported_changed)
        self.slices = Reflector(local, resource.ENDPOINT_SLICES, notify=self._slice_changed, selector=SLICE_SELECTOR)
        self.attachments = Reflector(
            local, resource.NODE_ATTACHMENTS, notify=self._attachments_changed, namespace=namespace
        )
        self._by_service = index.Index(lambda: self.slices.store, _service_of)
        self._by_pod = index.Index(lambda: self.slices.store, _pods_of)
        # One writer, the attachments' reflector; readers see whole replacements of a node's pods.
        self._nodes: dict[str, _PodAddresses] = {}
        self._addresses: dict[str, tuple[Address, ...]] = {}

    @property
    def reflectors(self) -> list[Reflector[object]]:
        """All the reflectors, to be run."""
        return [self.exports, self.services, self.slices, self.attachments]  # type: ignore[list-item]

    def plan(self, key: str) -> export_plan.ExportPlan:
        """Decide what this cluster publishes for the service ``key``."""
        namespace, _, name = key.partition("/")
        export_ = self.exports.get(key)
        if export_ is None:
            return export_plan.NOTHING
        source = export_plan.ExportSource(
            namespace=namespace,
            name=name,
            export=export_,
            service=self.services.get(key),
            slices=self._by_service.find(key),
        )
        return export_plan.plan(source, cluster=self._cluster, addresses_of=self.addresses_of)

    def addresses_of(self, uid: str) -> tuple[Address, ...]:
        """Return the fleet addresses that cnf gave to the pod ``uid``."""
        return self._addresses.get(uid, ())

    def _exported_changed(self, key: str) -> None:
        # A service without an export concerns nobody; when an export comes it brings its own event.
        if self.exports.get(key) is not None:
            self._notify(key)

    def _slice_changed(self, key: str) -> None:
        self._by_pod.update(key)
        for service in self._by_service.update(key):
            self._exported_changed(service)

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
            self._exported_changed(service)


def addresses_by_pod(node: fleet.NodeAttachments) -> _PodAddresses:
    """Collect a node's fleet addresses by pod UID."""
    found: dict[str, tuple[Address, ...]] = {}
    for attachment in node.attachments:
        try:
            parsed = tuple(ipaddress.ip_address(text.partition("/")[0]) for text in attachment.addresses)
        except ValueError as err:
            # One bad entry must not end the process at every start.
            log.warning("an attachment is left out", extra={"node": node.metadata.name, "error": str(err)})
            continue
        found[attachment.pod_uid] = found.get(attachment.pod_uid, ()) + parsed
    return found


def _service_of(slice_: core.EndpointSlice) -> index.Terms:
    name = slice_.metadata.labels.get(names.LABEL_KUBE_SERVICE_NAME, "")
    return frozenset({f"{slice_.metadata.namespace}/{name}"}) if name else frozenset()


def _pods_of(slice_: core.EndpointSlice) -> index.Terms:
    references = [endpoint.target_ref for endpoint in slice_.endpoints or ()]
    return frozenset(reference.uid for reference in references if reference is not None and reference.uid)
