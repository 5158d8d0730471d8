"""Run the latency probe: ask one cluster after the other, and echo what others ask.

One invariant: only this process' monotonic clock is read, so clusters' clocks may differ as they like. A round trip
goes the same road twice, and half of it is what is shown.
"""

from __future__ import annotations

import functools
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram

from fleetboard.kube import errors
from fleetboard.kube.client import Client
from fleetboard.model import fleet, resource
from syncer import probe
from syncer.dns import asking

log = logging.getLogger(__name__)

MANAGER = "syncer-probe"
SERVER = "crossdns"
DNS_PORT = 53
LOST_S = 10.0
"""An echo that takes longer is lost."""
POLL_S = 0.01

SECONDS = Histogram(
    "fleetboard_export_probe_seconds",
    "From a change of an export in this cluster to the answer of another cluster's DNS: half of a round trip.",
    ["cluster"],
    buckets=(0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5),
    registry=None,
)
LOST = Counter(
    "fleetboard_export_probe_lost", "Echoes of another cluster that did not come.", ["cluster"], registry=None
)


class Merged(Protocol):
    """The hub's merges, as ``clusterset.Clusterset`` has them."""

    def service(self, key: str) -> fleet.FleetService | None:
        """Return the merge of ``namespace/name``."""

    def service_keys(self) -> list[str]:
        """Return ``namespace/name`` of every service."""


class Probing:
    """Probe from one cluster; ``ask`` stands in for DNS where there is none."""

    def __init__(
        self,
        child: Client,
        *,
        clusterset: Merged,
        cluster: str,
        namespace: str,
        interval_s: float,
        ask: Callable[[str], Sequence[int]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._child, self._clusterset = child, clusterset
        self._cluster, self._namespace, self._interval_s = cluster, namespace, interval_s
        self._ask, self._clock = ask or self._ask_crossdns, clock
        self._lock = threading.Lock()
        self._said = probe.Said()
        self._noticed: queue.SimpleQueue[str] = queue.SimpleQueue()
        # Anywhere: an echo that a former process was given must not be taken for ours.
        self._number = random.randrange(*probe.NUMBERS)
        self._server = ""

    def notice(self, key: str) -> None:
        """Learn that the merge of ``namespace/name`` may have changed."""
        asker = probe.cluster_of(key, namespace=self._namespace)
        if asker is not None and asker != self._cluster:
            self._noticed.put(asker)

    def run(self, stop: threading.Event) -> None:
        """Ask one of the other clusters every ``interval_s``, until ``stop``."""
        turn = 0
        # Clusters that were started together don't ask together.
        while not stop.wait(self._interval_s * random.uniform(0.8, 1.2)):
            others = self._others()
            if others:
                self._guarded(functools.partial(self.ask, others[turn % len(others)], stop))
                turn += 1

    def answer(self, stop: threading.Event) -> None:
        """Echo what others ask, until ``stop``."""
        while not stop.is_set():
            try:
                asker = self._noticed.get(timeout=0.5)
            except queue.Empty:
                continue
            self._guarded(functools.partial(self.echo, asker, stop))

    def ask(self, asked: str, stop: threading.Event) -> None:
        """Ask one cluster and note how long its echo took."""
        number = self._number = probe.following(self._number)
        began = self._clock()
        self._say(lambda said: said.ask(asked, number))
        if self._await(probe.pong_domain(self._cluster, asked, namespace=self._namespace), number, stop):
            SECONDS.labels(asked).observe((self._clock() - began) / 2)
        elif not stop.is_set():
            LOST.labels(asked).inc()
            self._server = ""  # it may have another address by now
            log.warning("no echo of the latency probe", extra={"cluster": asked, "waited_s": LOST_S})

    def echo(self, asker: str, stop: threading.Event) -> None:
        """Echo what ``asker`` asks, once this cluster's DNS answers it."""
        merged = self._clusterset.service(f"{self._namespace}/{probe.service_name(asker)}")
        number = probe.asked_number(merged.spec, self._cluster) if merged is not None else None
        if number is None or self._said.echoes.get(asker) == number:
            return
        if self._await(probe.ping_domain(asker, self._cluster, namespace=self._namespace), number, stop):
            self._say(lambda said: said.echo(asker, number))

    def _others(self) -> list[str]:
        found = (probe.cluster_of(key, namespace=self._namespace) for key in self._clusterset.service_keys())
        return sorted(name for name in found if name is not None and name != self._cluster)

    def _say(self, change: Callable[[probe.Said], probe.Said]) -> None:
        with self._lock:
            said = change(self._said)
            body = said.render(self._cluster, namespace=self._namespace)
            self._child.apply(resource.SERVICES, body, manager=MANAGER)
            self._said = said

    def _await(self, name: str, number: int, stop: threading.Event) -> bool:
        until = self._clock() + LOST_S
        while self._clock() < until and not stop.is_set():
            if number in self._ask(name):
                return True
            stop.wait(POLL_S)
        return False

    def _ask_crossdns(self, name: str) -> Sequence[int]:
        if not self._server:
            self._server = self._child.get(resource.SERVICES, SERVER, self._namespace).spec.cluster_ip
        return asking.find_ports((self._server, DNS_PORT), name)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except errors.KubeError as err:
            log.warning("the latency probe could not be sent", extra={"error": str(err)})


def register(registry: CollectorRegistry) -> None:
    """Show the probe's metrics in ``registry``; call once."""
    registry.register(SECONDS)
    registry.register(LOST)
