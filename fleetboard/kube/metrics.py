"""Metrics of a part's controllers and of its calls to API servers.

The metrics belong to the process and count without a registry; ``register(registry)`` shows them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

RECONCILES = Counter(
    "fleetboard_reconcile",
    "Keys reconciled, by result: done, again (asked to be called again) or failed.",
    ["controller", "result"],
    registry=None,
)
RECONCILE_SECONDS = Histogram(
    "fleetboard_reconcile_seconds", "Time to reconcile one key.", ["controller"], registry=None
)
RECONCILE_ERRORS = Counter(
    "fleetboard_reconcile_errors", "Keys that failed and are retried.", ["controller"], registry=None
)
WATCH_RESTARTS = Counter(
    "fleetboard_kube_watch_restarts", "Watches that failed and were restarted.", ["resource"], registry=None
)
EVENTS_DROPPED = Counter(
    "fleetboard_kube_events_dropped", "Kubernetes Events not written: too many at once, or refused.", registry=None
)


class Contacts(Collector):
    """When each API server last answered, shown as an age, so that an alert is a comparison with a constant."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}

    def note(self, server: str) -> float:
        """Remember that ``server`` answered now, and return now."""
        now = self._last[server] = self._clock()
        return now

    def describe(self) -> Iterable[Metric]:
        """Return the metric without a value, as registration requires."""
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        """Return one age per server."""
        family = self._family()
        for server, last in sorted(self._last.copy().items()):
            family.add_metric([server], self._clock() - last)
        return [family]

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "fleetboard_kube_last_contact_seconds", "Age of the API server's last answer.", labels=["server"]
        )


CONTACTS = Contacts()


def register(registry: CollectorRegistry) -> None:
    """Show this process' API metrics, memory and CPU in ``registry``; call once per registry."""
    ProcessCollector(registry=registry)
    for metric in (RECONCILES, RECONCILE_SECONDS, RECONCILE_ERRORS, WATCH_RESTARTS, EVENTS_DROPPED, CONTACTS):
        registry.register(metric)
