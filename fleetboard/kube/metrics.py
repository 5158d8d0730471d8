"""Metrics of every part's dealings with API servers.

One invariant: counting needs no registry. The metrics belong to the process, as counts do; a process shows them by
``register(registry)`` once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

RECONCILES = Counter(
    "fleetboard_reconcile",
    "Keys worked on, by how it went: done, again (asked to be called again) or failed.",
    ["controller", "result"],
    registry=None,
)
RECONCILE_SECONDS = Histogram("fleetboard_reconcile_seconds", "Time to work on one key.", ["controller"], registry=None)
RECONCILE_ERRORS = Counter(
    "fleetboard_reconcile_errors", "Keys that failed and will be tried again.", ["controller"], registry=None
)
WATCH_RESTARTS = Counter(
    "fleetboard_kube_watch_restarts", "Watches that failed and were begun again.", ["resource"], registry=None
)
EVENTS_DROPPED = Counter(
    "fleetboard_kube_events_dropped", "Kubernetes Events not written: too many at once or refused.", registry=None
)


class Contacts(Collector):
    """When each API server last answered, shown as an age so that an alert needs no clock of its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}

    def note(self, server: str) -> float:
        """Remember that ``server`` answered now, and return now."""
        now = self._last[server] = self._clock()
        return now

    def describe(self) -> Iterable[Metric]:
        """Name the metric without a value, as registration wants it."""
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
    """Show this process' API metrics in ``registry``, and what it takes of memory and CPU; call once per registry."""
    ProcessCollector(registry=registry)
    for metric in (RECONCILES, RECONCILE_SECONDS, RECONCILE_ERRORS, WATCH_RESTARTS, EVENTS_DROPPED, CONTACTS):
        registry.register(metric)
