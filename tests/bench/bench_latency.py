"""Names on the lab: from a change in c1 to the answer in c2, beside a Service and CoreDNS inside c2.

Invariant: ours and CoreDNS' take turns, are timed from just before the user's write, and count when every replica
of the server says so. What we do in six steps through three API servers CoreDNS does in one: the ratio says how far
from the floor that is.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator

import bench_exports
import bench_figures
from bench_asker import Asker, Expectation
from bench_figures import Figure

from fleetboard.kube import errors
from fleetboard.model import names, resource

ROUNDS = 50
HOLD_S = float(os.environ.get("FLEETBOARD_BENCH_HOLD_S", "60"))
RATE = 20
"""Exports a second while they are held."""
HELD_EVERY_S = 0.005
"""Between two questions then: asking as often as at rest took a twentieth of the machine."""
NODES = {"c1": "fleet-c1-control-plane", "c2": "fleet-c2-control-plane"}
ZONES = {"ours": "hyperos.local", "CoreDNS": "cluster.local"}
STEPS = ("service", "change", "removal")
Samples = dict[str, list[float]]
"""``<step> <whose>`` to milliseconds."""


def held_name(number: int) -> str:
    """Name a Service that is exported while exports are held."""
    return f"held-{number}"


@contextlib.contextmanager
def prepared(lab: bench_exports.Lab) -> Iterator[None]:
    """Make the Services, unexported, and take everything away afterwards, on the hub as well."""
    try:
        for client in (lab.c1, lab.c2):
            client.apply(resource.NAMESPACES, {"metadata": {"name": bench_exports.NAMESPACE}}, manager="bench")
        lab.c1.apply(resource.NODE_ATTACHMENTS, bench_exports.attachments(lab.c1), manager="bench")
        for client in (lab.c1, lab.c2):
            client.create(resource.SERVICES, bench_exports.service("follow", headless=True))
            client.create(resource.ENDPOINT_SLICES, bench_exports.endpoints("follow", 1))
        lab.c1.create(resource.SERVICE_EXPORTS, bench_exports.export("follow"))
        bench_exports.every(
            lambda number: lab.c1.create(resource.SERVICES, bench_exports.service(f"rest-{number}")), ROUNDS
        )
        bench_exports.every(
            lambda number: lab.c1.create(resource.SERVICES, bench_exports.service(held_name(number))),
            int(RATE * HOLD_S),
        )
        time.sleep(5)  # kube-proxy takes note of them all
        yield
    finally:
        bench_exports.clear(lab)


@dataclasses.dataclass(frozen=True, slots=True)
class Sides:
    """The servers that are asked: c2's crossdns, and c2's CoreDNS for c2's own Services."""

    lab: bench_exports.Lab
    ours: Asker
    beside: Asker

    def measure(self, whose: str, name: str, holds: Callable[[int], bool], write: Callable[[], object]) -> float:
        """Write, and return the milliseconds until the name in c2 is as expected."""
        asker = self.ours if whose == "ours" else self.beside
        expectation = asker.expect(f"{name}.{bench_exports.NAMESPACE}.svc.{ZONES[whose]}", holds)
        began = time.monotonic()
        write()
        return (expectation.wait() - began) * 1000

    def follow(self, whose: str, samples: Samples) -> None:
        """Measure an endpoint that comes and endpoints that all go; leave one."""
        client = self.lab.c1 if whose == "ours" else self.lab.c2
        for step, count in (("change", 2), ("removal", 0), ("", 1)):
            took = self.measure(
                whose,
                "follow",
                lambda found, count=count: found == count,  # type: ignore[misc]
                lambda count=count: client.apply(  # type: ignore[misc]
                    resource.ENDPOINT_SLICES, bench_exports.endpoints("follow", count), manager="bench"
                ),
            )
            if step:
                samples[f"{step} {whose}"].append(took)
            time.sleep(0.05)


def fresh() -> Samples:
    """Return no samples."""
    return {f"{step} {whose}": [] for step in STEPS for whose in ZONES}


def at_rest(sides: Sides) -> Samples:
    """Measure one thing at a time."""
    samples = fresh()
    for number in range(ROUNDS):
        name = f"rest-{number}"
        took = sides.measure(
            "ours",
            name,
            bool,
            lambda name=name: sides.lab.c1.create(resource.SERVICE_EXPORTS, bench_exports.export(name)),  # type: ignore[misc]
        )
        samples["service ours"].append(took)
        beside(sides, name, samples)
        for whose in ZONES:
            sides.follow(whose, samples)
    return samples


def beside(sides: Sides, name: str, samples: Samples) -> None:
    """Measure a Service of c2 in c2's CoreDNS, and delete it."""
    took = sides.measure(
        "CoreDNS", name, bool, lambda: sides.lab.c2.create(resource.SERVICES, bench_exports.service(name))
    )
    samples["service CoreDNS"].append(took)
    sides.lab.c2.delete(resource.SERVICES, name, bench_exports.NAMESPACE)
    time.sleep(0.05)


def held(sides: Sides) -> Samples:
    """Export ``RATE`` services a second, and measure everything else meanwhile."""
    samples, over = fresh(), threading.Event()
    sides.ours.every_s = sides.beside.every_s = HELD_EVERY_S
    begins = time.monotonic() + 0.5

    def one(number: int) -> tuple[float, Expectation]:
        due = begins + number / RATE
        time.sleep(max(0.0, due - time.monotonic()))
        name = held_name(number)
        expectation = sides.ours.expect(f"{name}.{bench_exports.NAMESPACE}.svc.{ZONES['ours']}", bool)
        sides.lab.c1.create(resource.SERVICE_EXPORTS, bench_exports.export(name))
        return due, expectation

    def rest() -> None:
        for number in itertools.count():
            beside(sides, f"beside-{number}", samples)
            for whose in ZONES:
                sides.follow(whose, samples)
            # Now and then: what is measured beside the exports must not be the load.
            if over.wait(1.0):
                return

    with concurrent.futures.ThreadPoolExecutor(bench_exports.WRITERS) as pool:
        meanwhile = pool.submit(rest)
        try:
            asked = list(pool.map(one, range(int(RATE * HOLD_S))))
            # From when it was due: a writer that is late must not hide a slow API.
            samples["service ours"] += [(expectation.wait(60) - due) * 1000 for due, expectation in asked]
        finally:
            over.set()
        meanwhile.result(60)
    return samples


def bench() -> tuple[list[Figure], object]:
    """Measure on the lab; return the figures and the samples."""
    lab = bench_exports.connect()
    crossdns = [
        (address, 5353)
        for address in bench_exports.pod_addresses(lab.c2, names.NAMESPACE, f"{names.LABEL_APP}=crossdns")
    ]
    coredns = [(address, 53) for address in bench_exports.pod_addresses(lab.c2, "kube-system", "k8s-app=kube-dns")]
    sides = Sides(lab, Asker(NODES["c2"], crossdns), Asker(NODES["c2"], coredns))
    with contextlib.suppress(errors.KubeError):
        bench_exports.clear(lab)
    try:
        with prepared(lab):
            rest = at_rest(sides)
            rest_load = bench_figures.load()
            busy = held(sides) if HOLD_S else fresh()
    finally:
        sides.ours.close()
        sides.beside.close()
    found = [Figure("names at rest, p50 / p99", f"load {rest_load}", "CoreDNS, one cluster"), *figures(rest)]
    if HOLD_S:
        found.append(Figure(f"{RATE} exports a second for {HOLD_S:.0f} s", f"load {bench_figures.load()}"))
        found += figures(busy)
    return found, {"rest_ms": rest, "held_ms": busy}


def figures(samples: Samples) -> list[Figure]:
    """Make the lines of the table."""
    shown = {
        "service": "  export -> answer in the other cluster",
        "change": "  endpoint comes -> answer",
        "removal": "  endpoints go -> no answer",
    }
    return [
        bench_figures.compare(text, samples[f"{step} ours"], samples[f"{step} CoreDNS"], tail=0.99)
        for step, text in shown.items()
    ]
