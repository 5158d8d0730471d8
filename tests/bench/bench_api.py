"""One API for both DNS servers, in a process of its own: prints its URL, then obeys lines on stdin.

``change SECONDS`` writes every slice of the headless services again within that time, and says ``changed``. crossdns
reads FleetServices and the slices that syncer would have written, CoreDNS' ``kubernetes`` plugin Services and those
slices.
"""

from __future__ import annotations

import ipaddress
import sys
import time
from typing import Any

from fake_api import FakeApi

from fleetboard.model import names

NAMESPACE = "shop"
SERVICES = 10_000
"""Services with a virtual address; each is asked for."""
HEADLESS, CLUSTERS, ENDPOINTS = 1500, ("c1", "c2"), 5
"""A slice for each headless service and cluster: 3000."""


def address(number: int) -> ipaddress.IPv4Address:
    """Return the virtual address of one service."""
    return ipaddress.IPv4Address("10.112.16.0") + number


def put(api: FakeApi, collection: str, name: str, namespace: str, obj: dict[str, Any]) -> None:
    """Store an object; client-go expects its kind in events."""
    metadata = {"name": name, "namespace": namespace, **obj.pop("metadata", {})}
    with api.changed:
        api.store((collection, namespace, name), {**obj, "metadata": metadata})


def put_service(api: FakeApi, name: str, vip: str) -> None:
    """Put one service as each of the two reads it; without an address it is headless."""
    port = {"name": "http", "port": 80, "protocol": "TCP"}
    spec = {"type": "ClusterIP", "clusterIP": vip or "None", "clusterIPs": [vip or "None"], "ports": [port]}
    put(api, "services", name, NAMESPACE, {"apiVersion": "v1", "kind": "Service", "spec": spec})
    merged: dict[str, Any] = {"namespace": NAMESPACE, "name": name, "ports": [port]}
    merged |= {"type": "ClusterSetIP", "vips": [vip]} if vip else {"type": "Headless"}
    put(api, "fleetservices", f"{NAMESPACE}.{name}", names.NAMESPACE, {"spec": merged})


def put_slice(api: FakeApi, number: int, place: int, turn: int) -> None:
    """Put the slice of one headless service and cluster; ``turn`` changes its addresses."""
    name = f"heads{number}"
    labels = {
        names.LABEL_SERVICE_NAME: name,
        names.LABEL_SOURCE_CLUSTER: CLUSTERS[place],
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        "kubernetes.io/service-name": name,
    }
    first = ipaddress.IPv4Address("10.113.0.0") + ((turn % 2 * len(CLUSTERS) + place) * HEADLESS + number) * 8
    endpoints = [
        {"addresses": [str(first + n)], "hostname": f"pod-{n}", "conditions": {"ready": True}} for n in range(ENDPOINTS)
    ]
    fields: dict[str, Any] = {"addressType": "IPv4", "endpoints": endpoints}
    fields |= {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}], "metadata": {"labels": labels}}
    kind = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"}
    put(api, "endpointslices", f"{name}-{CLUSTERS[place]}", NAMESPACE, {**kind, **fields})


def change(api: FakeApi, *, seconds: float, turn: int) -> None:
    """Write every slice again, evenly over the time."""
    every = [(number, place) for number in range(HEADLESS) for place in range(len(CLUSTERS))]
    began = time.monotonic()
    for done, (number, place) in enumerate(every):
        time.sleep(max(0.0, began + seconds * done / len(every) - time.monotonic()))
        put_slice(api, number, place, turn)
        # No client watches from that far back.
        if len(api.log) > len(every):
            del api.log[: -len(every) // 4]


def main() -> None:
    """Serve until stdin ends."""
    with FakeApi() as api:
        put(api, "namespaces", NAMESPACE, "", {"apiVersion": "v1", "kind": "Namespace"})
        for number in range(SERVICES):
            put_service(api, f"web{number}", str(address(number)))
        for number in range(HEADLESS):
            put_service(api, f"heads{number}", "")
            for place in range(len(CLUSTERS)):
                put_slice(api, number, place, 0)
        api.log.clear()
        api.compacted = 0
        print(api.url, flush=True)
        for turn, line in enumerate(sys.stdin, start=1):
            change(api, seconds=float(line.split()[1]), turn=turn)
            print("changed", flush=True)


if __name__ == "__main__":
    main()
