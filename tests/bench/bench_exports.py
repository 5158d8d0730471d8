"""Services and exports on the lab whose pods are synthetic, and how every trace of them is removed.

Invariant: what is made here is in one namespace of its own, on the hub under its name.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from fleetboard.kube.client import Client
from fleetboard.model import names, resource

NAMESPACE = "bench-latency"
WRITERS = 16
_PORTS = [{"name": "http", "port": 80, "protocol": "TCP"}]
_UID = "00000000-0000-4000-8000-{:012d}"


@dataclasses.dataclass(frozen=True, slots=True)
class Lab:
    """Clients of the three API servers."""

    hub: Client
    c1: Client
    c2: Client


def connect() -> Lab:
    """Connect to the lab."""
    path = os.environ["KUBECONFIG"]
    clients = [Client.from_kubeconfig(path, f"kind-fleet-{name}", user_agent="bench") for name in ("hub", "c1", "c2")]
    return Lab(*clients)


def pod_addresses(client: Client, namespace: str, selector: str) -> list[str]:
    """Return the addresses of running pods."""
    pods = client.list(resource.PODS, namespace, selector=selector)[0]
    return [pod.status.pod_ip for pod in pods if pod.status.phase == "Running" and not pod.metadata.deletion_timestamp]


def service(name: str, *, headless: bool = False) -> dict[str, Any]:
    """Make a Service without a selector: its endpoints are written here, and no pod has to start."""
    spec = {"ports": _PORTS} | ({"clusterIP": "None"} if headless else {})
    return {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def export(name: str) -> dict[str, Any]:
    """Make a ServiceExport."""
    return {"metadata": {"name": name, "namespace": NAMESPACE}}


def endpoints(name: str, count: int) -> dict[str, Any]:
    """Make the EndpointSlice of a Service with the first ``count`` synthetic pods."""
    made = [
        {"addresses": [f"192.0.2.{number + 1}"], "targetRef": {"kind": "Pod", "name": f"p{number}", "uid": uid(number)}}
        for number in range(count)
    ]
    labels = {names.LABEL_KUBE_SERVICE_NAME: name, names.LABEL_MANAGED_BY: "bench"}
    metadata = {"name": f"{name}-1", "namespace": NAMESPACE, "labels": labels}
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": made, "ports": [{"name": "http", "port": 80}]}


def uid(number: int) -> str:
    """Return the UID of a synthetic pod."""
    return _UID.format(number)


def attachments(client: Client) -> dict[str, Any]:
    """Say, as a node's cnf would, that two pods which don't exist hold the last addresses of c1's block."""
    (peer,) = [one for one in client.list(resource.PEERS, names.NAMESPACE)[0] if one.metadata.name == "c1"]
    block = ipaddress.ip_network(peer.status.cluster_cidrs[0])
    held = [
        {
            "podUid": uid(number),
            "podNamespace": NAMESPACE,
            "podName": f"p{number}",
            "interface": "net1",
            "addresses": [f"{block[-2 - number]}/32"],
        }
        for number in range(2)
    ]
    return {"metadata": {"name": NAMESPACE, "namespace": names.NAMESPACE}, "attachments": held}


def every(action: Callable[[int], object], count: int) -> None:
    """Do something for each number, several at a time."""
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(action, range(count)):
            pass


def clear(lab: Lab) -> None:
    """Delete the namespaces, and what the hub would remember of their services for a day."""
    for client in (lab.c1, lab.c2):
        client.delete(resource.NAMESPACES, NAMESPACE)
        client.delete(resource.NODE_ATTACHMENTS, NAMESPACE, names.NAMESPACE)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        left = [client.find(resource.NAMESPACES, NAMESPACE) for client in (lab.c1, lab.c2)]
        merged = [
            one for one in lab.hub.list(resource.FLEET_SERVICES, "fleetboard-default")[0] if ours(one.metadata.name)
        ]
        if not merged and left == [None, None]:
            break
        time.sleep(0.5)
    else:
        print(f"bench: {NAMESPACE} is not gone after three minutes", file=sys.stderr)
    records = [one.metadata.name for one in lab.hub.list(resource.CONFIG_MAPS, "fleetboard-default")[0]]
    records = [name for name in records if f"{NAMESPACE}." in name]
    every(lambda number: lab.hub.delete(resource.CONFIG_MAPS, records[number], "fleetboard-default"), len(records))
    claims = [
        one.metadata.name for one in lab.hub.list(resource.CLAIMS, "fleetboard-default")[0] if ours(one.spec.owner)
    ]
    every(lambda number: lab.hub.delete(resource.CLAIMS, claims[number], "fleetboard-default"), len(claims))


def ours(key: str) -> bool:
    """Return whether an object of the hub is of a service of this bench."""
    return key.startswith(f"{NAMESPACE}.")
