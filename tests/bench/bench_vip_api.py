"""Serves many services over the Kubernetes API: to kube-proxy as a cluster's own, to cnf as a clusterset's.

It serves lists and watches, and no more of the protocol than the two use. A line ``N`` on stdin changes service N: one
of its endpoints becomes unready, or ready again. It ends when its stdin does.
"""

from __future__ import annotations

import http.server
import ipaddress
import json
import sys
import threading
import urllib.parse
from typing import Any

from fleetboard.model import names

NODE = "bench"
CLUSTER = "c1"
ENDPOINTS = (1, 1, 1, 1, 2, 2, 2, 3, 3, 5)
"""Endpoints of ten services in turn: most have few."""
LARGE = 600
"""Endpoints of the first service."""
ADDRESSES = ipaddress.IPv4Network("10.113.0.0/16")
VIPS = ipaddress.IPv4Network("10.112.0.0/16")
SERVICE_CIDR = "10.96.0.0/12"

Object = dict[str, Any]


def main(port: int, count: int) -> None:
    """Serve on loopback until stdin ends."""
    served = Api(count)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), served.handler())
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        served.change(int(line))
        print("changed", flush=True)


class Api:
    """Collections by their last path element, and who watches them."""

    def __init__(self, count: int) -> None:
        self._version = 1
        self._count = count
        self._changed = threading.Condition()
        self._log: list[tuple[str, bytes]] = []
        self._unready: set[int] = set()
        self._collections = {
            "services": [encode(service(number)) for number in range(count)],
            "fleetservices": [encode(fleet_service(number)) for number in range(count)],
            "endpointslices": [encode(endpoint_slice(number)) for number in range(count)],
            "fleetnodes": [encode(FLEET_NODE)],
            "peers": [encode(peer) for peer in PEERS],
            "nodes": [encode(KUBE_NODE)],
            "servicecidrs": [encode(SERVICE_CIDRS)],
        }

    def change(self, number: int) -> None:
        """Make one endpoint of a service unready, or ready again."""
        self._unready ^= {number}
        with self._changed:
            self._version += 1
            found = endpoint_slice(number, version=self._version, unready=number in self._unready)
            event = {"type": "MODIFIED", "object": found}
            self._log.append(("endpointslices", encode(event) + b"\n"))
            self._changed.notify_all()

    def handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        """Return the class that answers requests."""
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urllib.parse.urlsplit(self.path)
                query = dict(urllib.parse.parse_qsl(url.query))
                *_, parent, last = url.path.split("/")
                if query.get("watch") in ("1", "true"):
                    api.watch(self, last)
                elif parent == "nodes":
                    self.answer(encode(KUBE_NODE))
                else:
                    self.answer(api.list(last, query))

            def do_POST(self) -> None:
                self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def list(self, name: str, query: dict[str, str]) -> bytes:
        """Return a page, or all where there is no limit or any version will do, as the API server does."""
        found = self._collections.get(name, [])
        start = int(query.get("continue", 0))
        end = len(found)
        if "limit" in query and query.get("resourceVersion") != "0":
            end = min(end, start + int(query["limit"]))
        metadata = {"resourceVersion": str(self._version)} | ({"continue": str(end)} if end < len(found) else {})
        kind, version = KINDS.get(name, ("List", "v1"))
        head = f'{{"kind":"{kind}List","apiVersion":"{version}","metadata":{json.dumps(metadata)},"items":['
        return head.encode() + b",".join(found[start:end]) + b"]}"

    def watch(self, request: http.server.BaseHTTPRequestHandler, name: str) -> None:
        """Send what changes from now on."""
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        seen = len(self._log)
        while True:
            with self._changed:
                self._changed.wait_for(lambda known=seen: len(self._log) > known)  # type: ignore[misc]
                events, seen = self._log[seen:], len(self._log)
            for collection, line in events:
                if collection == name:
                    request.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
                    request.wfile.flush()


def encode(obj: Object) -> bytes:
    """Render one object."""
    return json.dumps(obj, separators=(",", ":")).encode()


KINDS = {
    "services": ("Service", "v1"),
    "nodes": ("Node", "v1"),
    "endpointslices": ("EndpointSlice", "discovery.k8s.io/v1"),
    "servicecidrs": ("ServiceCIDR", "networking.k8s.io/v1"),
}
_PORTS = [{"name": "http", "port": 80, "protocol": "TCP"}]


def meta(name: str, namespace: str = "", **more: Any) -> Object:
    """Return metadata as long as the API server's."""
    found = {"name": name, "uid": "9f2c7b5e-1c1b-4a53-8f5e-0f6f3f6f0c11", "resourceVersion": "1", **more}
    return {**found, "namespace": namespace} if namespace else found


def cluster_address(number: int) -> ipaddress.IPv4Address:
    """Return the address of a service within its cluster."""
    return ipaddress.IPv4Address("10.96.0.1") + number


def service(number: int) -> Object:
    """Return a Service."""
    address = str(cluster_address(number))
    ports = [{**_PORTS[0], "targetPort": 8080}]
    spec = {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports}
    spec |= {"ipFamilies": ["IPv4"], "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"}
    return {"metadata": meta(f"svc{number}", f"ns{number % 100}"), "spec": spec}


def fleet_service(number: int) -> Object:
    """Return a FleetService."""
    space = f"ns{number % 100}"
    spec = {"namespace": space, "name": f"svc{number}", "vips": [str(VIPS[number + 1])], "ports": _PORTS}
    spec |= {"constituents": [{"cluster": CLUSTER, "ports": _PORTS}]}
    return {"metadata": meta(f"{space}.svc{number}", names.NAMESPACE), "spec": spec}


def endpoint_slice(number: int, *, version: int = 1, unready: bool = False) -> Object:
    """Return the slice of a service, with the labels that either reads."""
    count = ENDPOINTS[number % len(ENDPOINTS)] if number else LARGE
    first = number * 6 % (ADDRESSES.num_addresses - 2 * LARGE) + (LARGE if number else 0)
    endpoints = [
        {
            "addresses": [str(ADDRESSES[first + index])],
            "conditions": {"ready": not (unready and index == 0), "serving": True, "terminating": False},
        }
        for index in range(count)
    ]
    labels = {
        "kubernetes.io/service-name": f"svc{number}",
        names.LABEL_SERVICE_NAME: f"svc{number}",
        names.LABEL_SOURCE_CLUSTER: CLUSTER,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
    }
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": meta(f"svc{number}-x", f"ns{number % 100}", labels=labels) | {"resourceVersion": str(version)},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


KUBE_NODE = {
    "kind": "Node",
    "apiVersion": "v1",
    "metadata": meta(NODE),
    "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
}
SERVICE_CIDRS = {"metadata": meta("kubernetes"), "spec": {"cidrs": [SERVICE_CIDR]}}
FLEET_NODE = {
    "metadata": meta(NODE, names.NAMESPACE),
    "spec": {"blocks": ["10.113.0.0/26"]},
    "status": {"publicKey": "", "endpoint": "192.0.2.1:31820"},
}
PEERS = [
    {
        "metadata": meta(names.HUB, names.NAMESPACE),
        "spec": {"cluster": names.HUB},
        "status": {"fleetCidrs": ["10.112.0.0/12"], "vipCidrs": [str(VIPS)], "mtu": 1360},
    },
    {
        "metadata": meta(CLUSTER, names.NAMESPACE),
        "spec": {"cluster": CLUSTER},
        "status": {"clusterCidrs": [str(ADDRESSES)]},
    },
]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
