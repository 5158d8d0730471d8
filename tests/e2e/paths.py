"""Two exported services, one in each member, whose pods are clients too: what the tests of the data path stand on.

Invariant: the pods of c1 stand on both of its nodes, so that one of them is never on the leader's.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import time
from typing import Any

import lab
import paths_pod

SOURCE = pathlib.Path(paths_pod.__file__).read_text()
EAST, WEST = "east", "west"
REPLICAS = {EAST: 3, WEST: 1}
HOME = {EAST: lab.C1, WEST: lab.C2}


@dataclasses.dataclass(frozen=True)
class Member:
    """A pod of one of the services."""

    pod: lab.Pod
    node: str
    address: str
    """On net1."""

    def fetch(self, host: str, *, port: int = 80, timeout_s: int = 30) -> list[str]:
        """Ask a server who it is and whom it sees."""
        command = ("curl", "-sS", "-m", str(timeout_s), f"http://{host}:{port}/")
        return self.pod.exec(*command, timeout_s=timeout_s + 30).split()

    def program(self, *arguments: str) -> dict[str, Any]:
        """Run a client in it."""
        result: dict[str, Any] = json.loads(self.pod.exec("python3", "-c", SOURCE, *arguments, timeout_s=60))
        return result


@dataclasses.dataclass(frozen=True)
class Paths:
    """Both services, ready on both sides."""

    namespace: str
    east: list[Member]
    west: Member

    def name(self, service: str, zone: str = "hyperos.local") -> str:
        """Return a service's name in the clusterset."""
        return lab.dns_name(service, self.namespace, zone)

    @functools.cached_property
    def near(self) -> Member:
        """Return a pod on the node of c1 that leads."""
        leader = lab.C1.leader()
        return next(member for member in self.east if member.node == leader)

    @functools.cached_property
    def far(self) -> Member:
        """Return a pod on the node of c1 that doesn't lead."""
        leader = lab.C1.leader()
        return next(member for member in self.east if member.node != leader)


def build(namespace: str) -> Paths:
    """Make both services in a namespace that is there, and wait until each side reaches the other's."""
    for name, cluster in HOME.items():
        cluster.apply(
            _deployment(name, namespace),
            lab.make_service(
                name,
                namespace,
                ("http", "TCP", 80, paths_pod.HTTP_PORT),
                ("echo", "UDP", paths_pod.ECHO_PORT, paths_pod.ECHO_PORT),
            ),
            lab.make_export(name, namespace),
        )
    found = {
        name: [Member(pod, pod.node, pod.fleet_address) for pod in cluster.wait_pods(namespace, name, REPLICAS[name])]
        for name, cluster in HOME.items()
    }
    paths = Paths(namespace, found[EAST], found[WEST][0])
    began = time.monotonic()
    for member in (*paths.east, paths.west):
        for service in (EAST, WEST):
            host = paths.name(service)
            lab.eventually(functools.partial(member.fetch, host, timeout_s=5), within_s=90, every_s=0.3)
    lab.record("new services: until every pod reaches both, s", time.monotonic() - began)
    return paths


def _deployment(name: str, namespace: str) -> dict[str, Any]:
    made = lab.make_deployment(
        name,
        namespace,
        replicas=REPLICAS[name],
        command=["python3", "-c", SOURCE, "serve"],
        probe_port=paths_pod.HTTP_PORT,
    )
    made["spec"]["template"]["spec"] |= {
        "tolerations": [{"operator": "Exists"}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": name}},
            }
        ],
    }
    return made
