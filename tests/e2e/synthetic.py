"""Services whose pods are synthetic: no pod has to start, and every record of them is known in advance.

Invariant: what a node's cnf would publish of a pod is written here; whatever is made of it is Fleetboard's.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import lab

NAMESPACE = "e2e-scale"
ENDPOINTS = 20
PODS = 32
"""Synthetic pods of each cluster: no two services next to each other have the same ones."""
ZONE = "hyperos.local"
Records = dict[str, list[str] | str]


@dataclasses.dataclass(frozen=True)
class Exported:
    """One cluster's part of one service."""

    cluster: lab.Cluster
    name: str
    number: int
    addresses: tuple[str, ...]

    @property
    def domain(self) -> str:
        return f"{self.name}.{NAMESPACE}.svc.{ZONE}"

    @property
    def port(self) -> int:
        return 8000 + self.number

    def pods(self) -> list[int]:
        """Return its pods, by number."""
        return [(self.number + step) % PODS for step in range(ENDPOINTS)]

    def hosts(self) -> dict[str, str]:
        """Return the name and the address of each of its pods."""
        return {f"192-0-2-{pod}.{self.cluster.name}.{self.domain}": self.addresses[pod] for pod in self.pods()}

    def render(self) -> list[dict[str, Any]]:
        """Render its objects: a headless Service, its slice, its export."""
        service = lab.make_service(self.name, NAMESPACE, ("http", "TCP", self.port, self.port))
        service["spec"] = {"clusterIP": "None", "ports": service["spec"]["ports"]}
        endpoints = [{"addresses": [f"192.0.2.{pod}"], "targetRef": pod_reference(pod)} for pod in self.pods()]
        labels = {"kubernetes.io/service-name": self.name, "endpointslice.kubernetes.io/managed-by": "e2e"}
        slice_ = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{self.name}-1", "namespace": NAMESPACE, "labels": labels},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "http", "port": self.port}],
        }
        return [service, slice_, lab.make_export(self.name, NAMESPACE)]


def pod_reference(pod: int) -> dict[str, Any]:
    uid = f"00000000-0000-4000-8000-{pod:012d}"
    return {"kind": "Pod", "name": f"pod-{pod}", "namespace": NAMESPACE, "uid": uid}


def attachments(addresses: tuple[str, ...]) -> dict[str, Any]:
    """Say what a node's cnf would say of the pods."""
    held = [
        {
            "podUid": pod_reference(pod)["uid"],
            "podNamespace": NAMESPACE,
            "podName": f"pod-{pod}",
            "interface": "net1",
            "addresses": [f"{address}/32"],
        }
        for pod, address in enumerate(addresses)
    ]
    return {
        "apiVersion": "fleetboard.io/v1alpha1",
        "kind": "NodeAttachments",
        "metadata": {"name": NAMESPACE, "namespace": lab.SYSTEM},
        "attachments": held,
    }


def last_addresses(cluster: lab.Cluster) -> tuple[str, ...]:
    """Return the last addresses of the cluster's first block, which its nodes take last."""
    block = ipaddress.ip_network(cluster.get("peer", cluster.name, lab.SYSTEM)["status"]["clusterCidrs"][0])
    return tuple(str(block[-2 - pod]) for pod in range(PODS))


def exported_by(cluster: lab.Cluster, count: int) -> list[Exported]:
    """Return what a cluster exports: a fifth of it under names that the other has as well."""
    addresses = last_addresses(cluster)
    names = [f"both-{number}" if number % 5 == 0 else f"{cluster.name}-{number}" for number in range(count)]
    return [Exported(cluster, name, number, addresses) for number, name in enumerate(names)]


def wanted_records(exported: list[Exported]) -> Records:
    """Return every record that must exist; under these names there must be no other."""
    found: dict[str, set[str]] = {}
    for one in exported:
        for host, address in one.hosts().items():
            found.setdefault(f"{one.domain} A", set()).add(address)
            found.setdefault(f"{host} A", set()).add(address)
            found.setdefault(f"_http._tcp.{one.domain} SRV", set()).add(f"0 100 {one.port} {host}")
            found.setdefault(f"{one.domain} SRV", set()).add(f"0 100 {one.port} {host}")
    return {question: sorted(records) for question, records in found.items()}


def count_names(exported: list[Exported]) -> int:
    """Count the names that these services make below ``svc``, those without records included."""
    made = set()
    for one in exported:
        for name in (*one.hosts(), f"_http._tcp.{one.domain}"):
            labels = name.removesuffix(f".{ZONE}").split(".")
            made |= {".".join(labels[start:]) for start in range(len(labels))}
    return len(made - {"svc"})
