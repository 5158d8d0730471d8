"""Runs the latency probe: asks one cluster after the other, and echoes what others ask.

Only this process' monotonic clock is read, so the clusters' clocks may differ. A round trip takes the same path twice;
half of it is reported. Invariant: a probe Service is believed only if the member of its name, and no other, exports it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram

from fleetboard.kube import errors, workqueue
from fleetboard.kube.client import Client
from fleetboard.kube.controller import Controller
from fleetboard.model import fleet, resource
from fleetboard.model.keys import ServiceKey
from syncer.member.dns import asking
from syncer.member.probe import plan

log = logging.getLogger(__name__)

FIELD_MANAGER = "syncer-probe"
"""Not the syncer's: the ports of the probe Service are the probe's alone."""
DNS_SERVICE = "crossdns"
DNS_PORT = 53
LOST_S = 10.0
"""An echo that takes longer is lost."""
ECHO_S = 2.0
"""How long an echo waits for this cluster's DNS: other echoes wait for it."""
CLUSTERS_PER_INTERVAL = 8
"""Every member writes what a probe changes: with more clusters, each asks less often to limit the writes."""
POLL_S = 0.01
"""Between two looks at DNS: it bounds the error of what is measured."""

PROBE_SECONDS = Histogram(
    "fleetboard_export_probe_seconds",
    "From a change of an export in this cluster to the answer of another cluster's DNS: half of a round trip.",
    ["cluster"],
    buckets=(0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5),
    registry=None,
)
PROBES_LOST = Counter(
    "fleetboard_export_probe_lost", "Echoes of another cluster that did not arrive.", ["cluster"], registry=None
)


class MergedServices(Protocol):
    """The part of ``clusterset.Clusterset`` that the probe reads."""

    def service(self, key: ServiceKey) -> fleet.FleetService | None:
        """Return the merge of all exports of a service."""

    def peer(self, name: str) -> fleet.Peer | None:
        """Return a member's Peer."""

    def service_keys(self) -> list[ServiceKey]:
        """Return every service."""


class ProbeController:
    """Probes from one cluster; ``look_up_ports`` replaces DNS in tests.

    Attributes:
        echoes_due: Clusters whose question may wait for an echo.
    """

    def __init__(
        self,
        local: Client,
        *,
        clusterset: MergedServices,
        cluster: str,
        namespace: str,
        interval_s: float,
        look_up_ports: Callable[[str], Sequence[int]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._local, self._clusterset = local, clusterset
        self._cluster, self._namespace, self._interval_s = cluster, namespace, interval_s
        self._look_up_ports, self._clock = look_up_ports or self._ask_crossdns, clock
        self._lock = threading.Lock()
        self._service = plan.ProbeService()
        self.echoes_due = workqueue.WorkQueue[str]()
        self._measured: frozenset[str] = frozenset()
        # A random start: an echo for a former process must not be mistaken for one of this process.
        self._number = random.randrange(*plan.NUMBERS)
        self._server = ""

    def enqueue(self, key: ServiceKey) -> None:
        """Look for a question once the merge of a service may have changed."""
        asker = self._asker_of(key)
        if asker is not None:
            self.echoes_due.add(asker)

    def run(self, stop: threading.Event) -> None:
        """Ask one of the other clusters at a time, until ``stop``."""
        turn, others = 0, self._others()
        while not stop.wait(self.pause_s(len(others))):
            others = self._others()
            self._forget(others)
            if others:
                self._logging_errors("ask", functools.partial(self.ask, others[turn % len(others)], stop))
                turn += 1

    def pause_s(self, others: int) -> float:
        """Return the pause before the next question; jitter separates clusters that were started together."""
        return self._interval_s * max(1.0, others / CLUSTERS_PER_INTERVAL) * random.uniform(0.8, 1.2)

    def answer(self, stop: threading.Event) -> None:
        """Echo what others ask, until ``stop``."""

        def echo(asker: str) -> None:
            self._logging_errors("echo", functools.partial(self.echo, asker, stop))

        Controller("probe echoes", echo, queue=self.echoes_due).run(stop)

    def ask(self, asked: str, stop: threading.Event) -> None:
        """Ask one cluster and record how long its echo took."""
        number = self._number = plan.next_number(self._number)
        began = self._clock()
        self._write_service(lambda service: service.ask(asked, number))
        echoed = plan.echo_domain(self._cluster, asked, namespace=self._namespace)
        if self._await(echoed, number, stop, within_s=LOST_S):
            PROBE_SECONDS.labels(asked).observe((self._clock() - began) / 2)
        elif not stop.is_set():
            PROBES_LOST.labels(asked).inc()
            self._server = ""  # its address may have changed
            log.warning("latency probe got no echo", extra={"cluster": asked, "waited_s": LOST_S})

    def echo(self, asker: str, stop: threading.Event) -> None:
        """Echo what ``asker`` asks, once this cluster's DNS answers it."""
        key = ServiceKey(self._namespace, plan.service_name(asker))
        merged = self._clusterset.service(key) if self._asker_of(key) == asker else None
        number = plan.asked_number(merged.spec, self._cluster) if merged is not None else None
        if number is None or self._service.echoes.get(asker) == number:
            return
        asked = plan.question_domain(asker, self._cluster, namespace=self._namespace)
        if self._await(asked, number, stop, within_s=ECHO_S):
            self._write_service(lambda service: service.echo(asker, number))

    def _asker_of(self, key: ServiceKey) -> str | None:
        """Return the other member whose probe Service this is, or None."""
        name = plan.cluster_of(key, namespace=self._namespace)
        if name is None or name == self._cluster or self._clusterset.peer(name) is None:
            return None
        merged = self._clusterset.service(key)
        return (
            name
            if merged is not None and [constituent.cluster for constituent in merged.spec.constituents] == [name]
            else None
        )

    def _others(self) -> list[str]:
        found = map(self._asker_of, self._clusterset.service_keys())
        return sorted(name for name in found if name is not None)

    def _forget(self, others: Sequence[str]) -> None:
        """Remove the metrics of clusters that left."""
        for gone in self._measured - set(others):
            for metric in (PROBE_SECONDS, PROBES_LOST):
                with contextlib.suppress(KeyError):
                    metric.remove(gone)
        self._measured = frozenset(others)

    def _write_service(self, change: Callable[[plan.ProbeService], plan.ProbeService]) -> None:
        with self._lock:
            service = change(self._service)
            body = service.render(self._cluster, namespace=self._namespace)
            self._local.apply(resource.SERVICES, body, manager=FIELD_MANAGER)
            self._service = service

    def _await(self, name: str, number: int, stop: threading.Event, *, within_s: float) -> bool:
        until = self._clock() + within_s
        while self._clock() < until and not stop.is_set():
            if number in self._look_up_ports(name):
                return True
            stop.wait(POLL_S)
        return False

    def _ask_crossdns(self, name: str) -> Sequence[int]:
        if not self._server:
            self._server = self._local.get(resource.SERVICES, DNS_SERVICE, self._namespace).spec.cluster_ip
        return asking.find_ports((self._server, DNS_PORT), name)

    def _logging_errors(self, step: str, function: Callable[[], None]) -> None:
        try:
            function()
        except errors.KubeError as err:
            log.warning("could not carry out a step of the latency probe", extra={"step": step, "error": str(err)})


def register(registry: CollectorRegistry) -> None:
    """Register the probe's metrics; call once."""
    registry.register(PROBE_SECONDS)
    registry.register(PROBES_LOST)
