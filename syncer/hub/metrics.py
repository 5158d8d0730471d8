"""Metrics of syncer-hub.

What can be counted from the view is counted at each scrape, so that a metric never disagrees with the objects.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleetboard.model import names
from syncer.hub.view import View
from syncer.rules import admission, allocation

_COPY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class HubMetrics:
    """Counters and histograms that the controllers write."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.slices_copied = Counter(
            "fleetboard_hub_slices_copied",
            "Writes of copied EndpointSlices, deletions included.",
            ["cluster"],
            registry=registry,
        )
        self.slices_refused = Counter(
            "fleetboard_hub_slices_refused",
            "EndpointSlices of members that were not copied because the hub refuses them.",
            ["cluster"],
            registry=registry,
        )
        self.addresses_dropped = Counter(
            "fleetboard_hub_addresses_dropped",
            "Endpoint addresses left out of copies because they are not in the member's blocks.",
            ["cluster"],
            registry=registry,
        )
        self.exports_refused = Counter(
            "fleetboard_hub_exports_refused",
            "Times that the hub refused an export of a member.",
            ["cluster"],
            registry=registry,
        )
        self.copy_seconds = Histogram(
            "fleetboard_hub_copy_seconds",
            "Time from the event of a changed EndpointSlice until its copy was written.",
            buckets=_COPY_BUCKETS,
            registry=registry,
        )


class ViewCollector(Collector):
    """Gauges read from the view."""

    def __init__(self, view: View, *, leading: Callable[[], bool]) -> None:
        self._view = view
        self._leading = leading

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering doesn't collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Count."""
        yield _gauge("fleetboard_hub_leading", "Whether this process is the one that decides.", float(self._leading()))
        yield self._members()
        yield self._addresses()
        exports = [
            export
            for export in list(self._view.exports.store.values())
            if self._view.cluster_of(export.metadata.namespace) is not None
        ]
        yield _gauge("fleetboard_hub_exports", "ExportedServices of members.", len(exports))
        services = list(self._view.services.store.values())
        yield _gauge("fleetboard_hub_services", "Services of the clusterset.", len(services))
        conflicting = sum(bool(service.spec.conflicts) for service in services)
        yield _gauge("fleetboard_hub_conflicting_services", "Services whose exports disagree.", conflicting)
        namespace = self._view.clusterset.namespace
        copies = sum(slice_.metadata.namespace == namespace for slice_ in list(self._view.slices.store.values()))
        yield _gauge("fleetboard_hub_copied_slices", "EndpointSlices that members read.", copies)

    def _members(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "fleetboard_hub_members", "Members by condition and its status.", labels=["condition", "status"]
        )
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for kind in admission.TYPES:
            for status in ("True", "False", "Unknown"):
                counts[kind, status] = 0
        for peer in list(self._view.peers.store.values()):
            if peer.metadata.name != names.HUB:
                counts.update(
                    (condition.type, condition.status)
                    for condition in peer.status.conditions
                    if condition.type in admission.TYPES
                )
        for (kind, status), count in sorted(counts.items()):
            family.add_metric([kind, status], count)
        return family

    def _addresses(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "fleetboard_hub_claims",
            "Virtual addresses and smallest cluster blocks, by state: used, resting (quarantined) or free.",
            labels=["purpose", "state"],
        )
        layouts = self._view.clusterset.layouts
        for purpose, room in (
            (allocation.VIP, sum(allocation.vip_room(layout.vips) for layout in layouts)),
            (allocation.CLUSTER_BLOCK, sum(allocation.block_room(layout) for layout in layouts)),
        ):
            used, quarantined = self._view.claims.count(purpose)
            family.add_metric([purpose, "used"], used)
            family.add_metric([purpose, "resting"], quarantined)
            family.add_metric([purpose, "free"], max(room - used - quarantined, 0))
        return family


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
