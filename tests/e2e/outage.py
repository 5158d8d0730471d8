"""Who fetches from whom while something is away, what can be cut, and how it is mended.

Invariant: a cut is a firewall rule of this machine with our mark, and every rule with the mark is taken back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Callable, Iterator

import lab
import pulse

READY_S = 180.0
SLOW_S = 0.8
"""An attempt that took longer waited for something to be sent again."""

TO_HUB, FROM_HUB = ("-i", "fleet-site-+", "-o", "fleet-public"), ("-i", "fleet-public", "-o", "fleet-site-+")
TO_API = (*TO_HUB, "-p", "tcp", "--dport", "6443")
TUNNEL_OF_C2 = (
    ("-i", "fleet-site-2", "-o", "fleet-public", "-p", "udp", "--dport", "31820"),
    ("-i", "fleet-public", "-o", "fleet-site-2", "-p", "udp", "--sport", "31820"),
)
CHAIN = "DOCKER-USER"
MARK = "fleetboard-lab-cut"

Gaps = dict[tuple[str, str], float]
"""Seconds by who fetched and from what: a service by its name, a pod by ``to-`` and the node it runs on."""

Failures = dict[tuple[str, str], list[pulse.Note]]
"""The failed attempts by the same."""


@dataclasses.dataclass(frozen=True)
class World:
    """A pulse pod on each node of the members, by node; services ``east`` (c1), ``west`` (c2) and ``both``."""

    namespace: str
    pods: dict[str, lab.Pod]

    def aim(self, *, unless_on: tuple[str, ...] = ()) -> None:
        """Fetch from all services, and from the pods of all nodes but those, which will get other addresses."""
        names = {service: lab.dns_name(service, self.namespace) for service in ("east", "west", "both")}
        direct = {node: pod.fleet_address for node, pod in self.pods.items() if node not in unless_on}
        for node, pod in self.pods.items():
            pulse.aim(pod, names | {f"to-{other}": direct[other] for other in direct if other != node})
        start = time.time()
        for pod in self.pods.values():
            pulse.wait_well(pod, start, within_s=60, steady=5)

    def gaps(self, since: float, *, within_s: float) -> Gaps:
        """Wait until every part is ready and all is well again, and return for how long it was not."""
        lab.eventually(parts_ready, within_s=READY_S, every_s=0.5)
        deadline = max(since + within_s, time.time()) + 15  # a steady while after the last failure
        return {
            (node, label): seconds
            for node, pod in self.pods.items()
            for label, seconds in pulse.wait_well(pod, since, within_s=max(1.0, deadline - time.time())).items()
        }

    def explain(self, since: float) -> str:
        """Return which attempts failed or took long since a blow, and when: seconds after it."""
        lines = []
        for node, pod in self.pods.items():
            for note in pulse.notes(pod, since):
                if not note.good or note.ended - note.began > SLOW_S:
                    times = f"{note.began - since:+.2f} to {note.ended - since:+.2f}"
                    lines.append(f"{node} {note.label} {times}: {note.answer}")
        return "\n".join(lines)

    def failures(self, since: float, until: float) -> Failures:
        """Return the attempts that began in that time and failed."""
        found: Failures = {}
        for node, pod in self.pods.items():
            for note in pulse.notes(pod, since):
                if since <= note.began <= until and not note.good:
                    found.setdefault((node, note.label), []).append(note)
        return found


def build(make_namespace: Callable[[str], str], name: str) -> World:
    """Make the pods and services in a namespace of that name."""
    mend()
    namespace = make_namespace(name)
    found = {}
    for cluster, side in ((lab.C1, "east"), (lab.C2, "west")):
        for number, node in enumerate(cluster.nodes()):
            cluster.apply(pulse.deployment(f"{side}-{number}", namespace, node=node, side=side))
        for service in (side, "both"):
            cluster.apply(pulse.service(service, namespace, side=side), lab.make_export(service, namespace))
    for cluster, side in ((lab.C1, "east"), (lab.C2, "west")):
        for number, node in enumerate(cluster.nodes()):
            found[node] = cluster.wait_pods(namespace, f"{side}-{number}", 1)[0]
    return World(namespace, found)


def parts_ready() -> bool:
    """Return True when every part of all three clusters is ready, or fail with the one that isn't."""
    for cluster in (lab.HUB, lab.C1, lab.C2):
        pods = cluster.list("pods", lab.SYSTEM)
        late = [
            pod["metadata"]["name"] for pod in pods if "deletionTimestamp" in pod["metadata"] or not lab.is_ready(pod)
        ]
        assert pods, cluster.name
        assert not late, f"{cluster.name}: not ready: {late}"
    return True


@contextlib.contextmanager
def cut(*matches: tuple[str, ...]) -> Iterator[float]:
    """Drop what matches on its way between the sites and the hub; gives when that began."""
    for match in matches:
        lab.run("iptables", "-I", CHAIN, *match, "-m", "comment", "--comment", MARK, "-j", "DROP")
    try:
        yield time.time()
    finally:
        mend()


def mend() -> None:
    """Take back every cut, also one that a run left that was ended in its middle."""
    for rule in lab.run("iptables", "-S", CHAIN).splitlines():
        if MARK in rule:
            lab.run("iptables", "-D", *shlex.split(rule)[1:])


def worst(gaps: Gaps) -> float:
    """Return the longest gap."""
    return max(gaps.values())
