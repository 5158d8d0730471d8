"""Metrics of crossdns.

The answering processes count queries in shared memory (``crossdns.server.counters``); this module reads the counts.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from crossdns.server import counters, workers

_RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")

NAMES = Gauge("fleetboard_dns_names", "Names below each zone, those without records included.", registry=None)
UPDATES = Counter("fleetboard_dns_zone_updates", "Updates sent to the answering processes.", registry=None)
UPDATE_SECONDS = Histogram(
    "fleetboard_dns_update_seconds",
    "Time from the API's event to the update having been sent to the answering processes.",
    buckets=(0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
    registry=None,
)
RESTORED = Gauge("fleetboard_dns_zone_restored", "1 while the zone served is a saved one.", registry=None)
SAVE_ERRORS = Counter("fleetboard_dns_zone_save_errors", "Times the zone could not be saved.", registry=None)

_OTHERS = (
    (counters.DROPPED, "fleetboard_dns_dropped", "Messages that got no reply."),
    (counters.TRUNCATED, "fleetboard_dns_truncated", "Replies that did not fit and said so."),
    (counters.UNPLAIN, "fleetboard_dns_parsed", "Messages that could not be answered without being parsed."),
    (counters.FAILED, "fleetboard_dns_failures", "Messages that crossdns failed on: a defect, see the log."),
    (counters.REFUSED_CONNECTIONS, "fleetboard_dns_connections_evicted", "TCP connections closed to make room."),
)


class Queries(Collector):
    """Shows the counters of the answering processes."""

    def __init__(self, pool: workers.WorkerPool) -> None:
        self._pool = pool

    def collect(self) -> Iterable[Metric]:
        """Return counts by protocol, summed over processes."""
        sums: dict[str, list[int]] = {}
        for slot in self._pool.slots:
            counts = self._pool.counts(slot)
            so_far = sums.get(slot.protocol, [0] * counters.FIELDS)
            sums[slot.protocol] = [a + b for a, b in zip(so_far, counts, strict=True)]
        queries = CounterMetricFamily("fleetboard_dns_queries", "Queries answered.", labels=["protocol", "rcode"])
        for protocol, counts in sums.items():
            for rcode, name in enumerate(_RCODES):
                queries.add_metric([protocol, name], counts[rcode])
        yield queries
        for field, name, text in _OTHERS:
            family = CounterMetricFamily(name, text, labels=["protocol"])
            for protocol, counts in sums.items():
                family.add_metric([protocol], counts[field])
            yield family
        served = GaugeMetricFamily("fleetboard_dns_zone_served", "1 once every process serves a zone.")
        served.add_metric([], 1 if self._pool.served() else 0)
        yield served


def register(registry: CollectorRegistry, pool: workers.WorkerPool) -> None:
    """Show this process' metrics in ``registry``; call once per registry."""
    for metric in (NAMES, UPDATES, UPDATE_SECONDS, RESTORED, SAVE_ERRORS, Queries(pool)):
        registry.register(metric)
