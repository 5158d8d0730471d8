"""Metrics of a member's syncer.

Gauges are computed from the current objects at each scrape, so that they can't drift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SYNC_SECONDS = Histogram(
    "fleetboard_sync_seconds",
    "Time from the event of a change until it was written: exports to the hub, imports and copies in this cluster.",
    ["direction"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60),
    registry=None,
)


class Gauges(Collector):
    """Gauges without labels, each a name, a help text and a function."""

    def __init__(self, gauges: Iterable[tuple[str, str, Callable[[], float]]]) -> None:
        self._gauges = list(gauges)

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values."""
        return [GaugeMetricFamily(name, text) for name, text, _ in self._gauges]

    def collect(self) -> Iterable[Metric]:
        """Read the values."""
        return [GaugeMetricFamily(name, text, value=value()) for name, text, value in self._gauges]


class RefusedAddresses(Collector):
    """Addresses that other clusters published and that this cluster refused, by source cluster."""

    def __init__(self, refused: Callable[[], Mapping[str, int]]) -> None:
        self._refused = refused

    def describe(self) -> Iterable[Metric]:
        """Return the metric without values."""
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        """Read the values."""
        family = self._family()
        for cluster, count in sorted(self._refused().items()):
            family.add_metric([cluster], count)
        return [family]

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "fleetboard_import_refused_addresses",
            "Addresses not imported because they lie outside the source cluster's blocks.",
            labels=["source_cluster"],
        )


def register(
    registry: CollectorRegistry,
    gauges: Iterable[tuple[str, str, Callable[[], float]]],
    refused: Callable[[], Mapping[str, int]],
) -> None:
    """Register these metrics; call once."""
    registry.register(SYNC_SECONDS)
    registry.register(Gauges(gauges))
    registry.register(RefusedAddresses(refused))
