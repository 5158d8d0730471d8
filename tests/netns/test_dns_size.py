"""500 services of 20 endpoints from each of two clusters: every record and no other, in less than 120 MB."""

from __future__ import annotations

import pathlib
import re
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import dns_processes
import dnslib
import pytest
from fake_api import FakeApi

from fleetboard.model import names

pytestmark = pytest.mark.netns

SERVICES, ENDPOINTS, CLUSTERS = 500, 20, ("c1", "c2")
MEMORY_MB = 120
PORTS = {"http": 8080, "metrics": 9090}
ASKED_AT_ONCE = 100

Endpoints = dict[tuple[int, str], list[tuple[str, str]]]
"""(host name, address) of each ready endpoint, by number of the service and cluster."""


@pytest.fixture(scope="module", autouse=True)
def netns() -> Iterator[None]:
    with dns_processes.inside("dns-size"):
        yield


@pytest.mark.timeout(900)  # half a minute of processor time
def test_every_record_and_no_other_within_the_memory(tmp_path: pathlib.Path) -> None:
    endpoints: Endpoints = {
        (number, cluster): [(f"pod-{n}", address(number, place, n)) for n in range(ENDPOINTS)]
        for number in range(SERVICES)
        for place, cluster in enumerate(CLUSTERS)
    }
    with FakeApi() as api:
        fill(api, endpoints)
        pod = dns_processes.Pod.start(api.url, tmp_path)
        try:
            pod.wait_names(expected_names(endpoints), within_s=300)
            compare(endpoints, names.ZONES)
            memory = [pod.memory_mb()]
            # A third of the slices is rolled out again, a tenth is emptied, and every second of those is deleted.
            for index, key in enumerate(list(endpoints)):
                if index % 3 == 0:
                    endpoints[key] = [(f"pod-{n}", address(key[0], 8 + index % 2, n)) for n in range(ENDPOINTS + 2)]
                if index % 10 == 0:
                    endpoints[key] = []
                put_slice(api, key, endpoints[key])
                if index % 20 == 0:
                    api.remove("endpointslices", slice_name(key), "shop")
                    del endpoints[key]
            pod.wait_names(expected_names(endpoints), within_s=300)
            compare(endpoints, reversed(names.ZONES))
            memory.append(pod.memory_mb())
        finally:
            pod.end()
    print(f"memory of all processes: {memory[0]:.0f} MB, after the changes {memory[1]:.0f} MB")
    assert max(memory) < MEMORY_MB


def address(number: int, place: int, n: int) -> str:
    return f"10.{112 + place}.{number // 10}.{number % 10 * 25 + n}"


def slice_name(key: tuple[int, str]) -> str:
    return f"web-{key[0]}-{key[1]}"


def fill(api: FakeApi, endpoints: Endpoints) -> None:
    api.put("namespaces", "shop", "")
    for number in range(SERVICES):
        spec = {"namespace": "shop", "name": f"web-{number}", "type": "Headless"}
        api.put("fleetservices", f"shop.web-{number}", names.NAMESPACE, spec=spec)
    for key, found in endpoints.items():
        put_slice(api, key, found)


def put_slice(api: FakeApi, key: tuple[int, str], found: list[tuple[str, str]]) -> None:
    """Write a slice as syncer does; one endpoint more isn't ready."""
    number, cluster = key
    labels = {
        names.LABEL_SERVICE_NAME: f"web-{number}",
        names.LABEL_SOURCE_CLUSTER: cluster,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
    }
    listed: list[dict[str, Any]] = [
        {"addresses": [text], "hostname": host, "conditions": {"ready": True, "serving": True, "terminating": False}}
        for host, text in found
    ]
    listed.append({"addresses": ["10.127.0.1"], "hostname": "late", "conditions": {"ready": False}})
    ports = [{"name": name, "port": port, "protocol": "TCP"} for name, port in PORTS.items()]
    fields = {"addressType": "IPv4", "endpoints": listed, "ports": ports}
    obj = {"metadata": {"name": slice_name(key), "namespace": "shop", "labels": labels}, **fields}
    with api.changed:
        api.store(("endpointslices", "shop", slice_name(key)), obj)


def expected(endpoints: Endpoints, apex: str) -> dict[tuple[str, str], set[str]]:
    """Return, from the specification alone, what every name holds: content by (name, type)."""
    found: dict[tuple[str, str], set[str]] = {}
    for (number, cluster), of_slice in endpoints.items():
        service = f"web-{number}.shop.svc.{apex}"
        for host, text in of_slice:
            full = f"{host}.{cluster}.{service}"
            found[full, "A"] = {text}
            found.setdefault((service, "A"), set()).add(text)
            for name, port in PORTS.items():
                target = f"0 100 {port} {full}."
                found.setdefault((f"_{name}._tcp.{service}", "SRV"), set()).add(target)
                found.setdefault((service, "SRV"), set()).add(target)
    for number in range(SERVICES):
        for type_ in ("A", "SRV"):
            found.setdefault((f"web-{number}.shop.svc.{apex}", type_), set())
    return found


def expected_names(endpoints: Endpoints) -> int:
    """Count the names below a zone, those without records included."""
    every = {"svc", "shop.svc"}
    for name, _ in (key for key, content in expected(endpoints, "x").items() if content):
        labels = name.removesuffix(".x").split(".")
        every |= {".".join(labels[n:]) for n in range(len(labels))}
    return len(every)


def is_asked(name: str, half: int) -> bool:
    number = re.match(r"pod-\d+\.c\d\.web-(\d+)\.", name)
    return number is None or int(number[1]) % 2 == half


def compare(endpoints: Endpoints, zones: Iterable[str]) -> None:
    """Ask for every name of a service in both zones, for every host of a service in one of them."""
    wrong: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.connect(("127.0.0.1", dns_processes.PORT))
        sock.settimeout(60)
        stream = sock.makefile("rb")
        for half, apex in enumerate(zones):
            wanted = [item for item in expected(endpoints, apex).items() if is_asked(item[0][0], half)]
            for start in range(0, len(wanted), ASKED_AT_ONCE):
                batch = wanted[start : start + ASKED_AT_ONCE]
                queries = [bytes(dnslib.DNSRecord.question(name, type_).pack()) for (name, type_), _ in batch]
                sock.sendall(b"".join(len(data).to_bytes(2, "big") + data for data in queries))
                for key, content in batch:
                    reply = dnslib.DNSRecord.parse(stream.read(int.from_bytes(stream.read(2), "big")))
                    found = [str(record.rdata) for record in reply.rr]
                    if sorted(found) != sorted(content) or reply.header.rcode != (0 if content else 3):
                        wrong.append(f"{key}: {sorted(found)[:3]}, expected {sorted(content)[:3]}")
    assert not wrong, (len(wrong), wrong[:3])
