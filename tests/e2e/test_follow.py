"""Names and addresses follow what users do to a service: within 5 s, seen through each cluster's own CoreDNS."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import lab
import observer
import pytest

NAMESPACE = "e2e-follow"
PORT = 8080
HOST = lab.dns_name("web", NAMESPACE)
LIMIT_S = 5.0
OWNER = "fleetboard.io/managed"
EXPORTS = "serviceexports.multicluster.x-k8s.io"
IMPORTS = "serviceimports.multicluster.x-k8s.io"
SERVE = observer.serve(PORT)


@dataclasses.dataclass(frozen=True)
class World:
    """Three servers in c1, and who asks for them in either cluster."""

    observers: list[lab.Pod]
    address: str

    def wait(self, *, since: float, until: Callable[[list[observer.Sample]], bool], within_s: float = LIMIT_S) -> float:
        """Wait until every observer saw it; return the seconds of the last."""
        return max(observer.wait(pod, since=since, until=until, within_s=within_s) for pod in self.observers)

    def settle(self, *, since: float, holds: Callable[[observer.Sample], bool]) -> float:
        """Wait until every observer sees it, and nothing else; return the seconds of the last."""
        return max(observer.settle(pod, since=since, holds=holds, within_s=LIMIT_S) for pod in self.observers)


@pytest.fixture(scope="module")
def world(namespaces: Callable[[str], str]) -> World:
    namespaces(NAMESPACE)
    for cluster in (lab.C1, lab.C2):
        cluster.apply(observer.make("observer", NAMESPACE, host=HOST, port=PORT))
    lab.C1.apply(
        lab.make_deployment("web", NAMESPACE, replicas=3, command=SERVE, probe_port=PORT, cpu=lab.MEASURED),
        lab.make_service("web", NAMESPACE, ("tcp", "TCP", PORT, PORT)),
        lab.make_export("web", NAMESPACE),
    )
    lab.C1.wait_pods(NAMESPACE, "web", 3)
    observers = [cluster.wait_pods(NAMESPACE, "observer", 1)[0] for cluster in (lab.C1, lab.C2)]
    world = World(observers, address_of(lab.eventually(lambda: find_import("web", NAMESPACE), within_s=60)))
    world.wait(since=time.time(), until=all_answer, within_s=60)
    return world


def find_import(name: str, namespace: str, cluster: lab.Cluster = lab.C2) -> dict[str, Any]:
    found = cluster.get(IMPORTS, name, namespace)
    assert found["spec"].get("ips"), found
    return found


def address_of(found: dict[str, Any]) -> str:
    return str(found["spec"]["ips"][0])


def scale(replicas: int) -> None:
    lab.C1.kubectl("-n", NAMESPACE, "scale", "deployment/web", f"--replicas={replicas}")


def to_time(noted: str) -> float:
    """Return a time that a cluster noted, to the second below, as seconds since the epoch."""
    return datetime.datetime.fromisoformat(noted).timestamp()


def made_at(found: dict[str, Any]) -> float:
    return to_time(found["metadata"]["creationTimestamp"])


def last_ready() -> float:
    """Return when the newest of the servers became ready, to the second below."""
    times = [
        condition["lastTransitionTime"]
        for pod in lab.C1.list("pods", NAMESPACE, selector="app=web")
        for condition in pod["status"]["conditions"]
        if condition["type"] == "Ready"
    ]
    return max(to_time(when) for when in times)


def all_answer(seen: list[observer.Sample]) -> bool:
    return len({one.line for one in seen if (one.rcode, one.outcome) == ("NOERROR", "served")}) == 3


def is_refused(sample: observer.Sample) -> bool:
    """A reset, not silence, and at once."""
    return sample.outcome == "ConnectionRefusedError" and sample.took < 0.5


def is_gone(sample: observer.Sample) -> bool:
    return sample.rcode == "NXDOMAIN"


def test_scaling_to_nothing_refuses_at_once_and_scaling_up_brings_all_back(world: World) -> None:
    began = time.time()
    scale(0)
    lab.record("scaled to 0: refused everywhere", world.settle(since=began, holds=is_refused))

    scale(3)
    lab.C1.wait_pods(NAMESPACE, "web", 3)
    ready = last_ready()
    up_s = world.wait(since=ready, until=all_answer)
    lab.record("scaled to 3: all three answer everywhere after the last was ready", up_s)
    for pod in world.observers:
        whole = observer.samples(pod, since=began)
        assert {(sample.rcode, *sample.addresses) for sample in whole} == {("NOERROR", world.address)}, (
            "the name and its address stay through all of it"
        )


def test_a_deleted_export_takes_its_name_away_and_a_new_one_brings_the_same_address(world: World) -> None:
    began = time.time()
    lab.C1.delete("serviceexport", "web", NAMESPACE)
    gone_s = world.settle(since=began, holds=is_gone)
    lab.record("export deleted: NXDOMAIN everywhere", gone_s)
    for cluster in (lab.C1, lab.C2):
        assert not cluster.list(IMPORTS, NAMESPACE), cluster.name
        slices = cluster.list("endpointslices", NAMESPACE, selector="multicluster.kubernetes.io/service-name=web")
        assert not slices, cluster.name
    assert not [item for item in lab.HUB.list("fleetservices") if item["metadata"]["name"] == f"{NAMESPACE}.web"]

    began = time.time()
    lab.C1.apply(lab.make_export("web", NAMESPACE))
    back_s = world.wait(since=began, until=all_answer)
    lab.record("export made again: all three answer everywhere", back_s)
    for pod in world.observers:
        named = [sample for sample in observer.samples(pod, since=began) if sample.addresses]
        assert {tuple(sample.addresses) for sample in named} == {(world.address,)}


def test_a_deleted_import_is_back_with_its_address(world: World) -> None:
    old = find_import("web", NAMESPACE)
    with watching(lab.C2, NAMESPACE) as changes:
        lab.C2.kubectl("-n", NAMESPACE, "delete", IMPORTS, "web")
        lab.eventually(lambda: [one for one in changes if is_new(one, old)], within_s=60)
    deleted = next(at for at, kind, _ in changes if kind == "DELETED")
    back = next(one[0] for one in changes if is_new(one, old))
    lab.record("import deleted: back with its address", back - deleted)
    assert back - deleted < LIMIT_S
    new = find_import("web", NAMESPACE)
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert new["spec"] == old["spec"]

    def has_slices() -> bool:
        found = lab.C2.list("endpointslices", NAMESPACE, selector="multicluster.kubernetes.io/service-name=web")
        owners = [owner for item in found for owner in item["metadata"]["ownerReferences"]]
        imports = {owner["uid"] for owner in owners if owner["kind"] == "ServiceImport"}
        return imports == {new["metadata"]["uid"]} and sum(len(item["endpoints"]) for item in found) == 3

    lab.eventually(has_slices, within_s=60)
    for pod in world.observers:
        during = observer.samples(pod, since=deleted)
        assert {(sample.rcode, *sample.addresses) for sample in during} == {("NOERROR", world.address)}
        assert {sample.outcome for sample in during} == {"served"}, "clients see nothing of it"


Change = tuple[float, str, dict[str, Any]]
Changes = collections.deque[Change]


class watching:  # noqa: N801 - reads as what it does
    """Collect what happens to the ServiceImport ``web`` of a namespace, with the time of each change."""

    def __init__(self, cluster: lab.Cluster, namespace: str) -> None:
        path = f"/apis/multicluster.x-k8s.io/v1alpha1/namespaces/{namespace}/serviceimports"
        path += "?watch=1&fieldSelector=metadata.name%3Dweb"
        self._command = ["kubectl", "--context", cluster.context, "get", "--raw", path]

    def __enter__(self) -> Changes:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        changes: Changes = collections.deque()

        def read() -> None:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                event = json.loads(line)
                changes.append((time.time(), event["type"], event["object"]))

        self._reader = threading.Thread(target=read)
        self._reader.start()
        lab.eventually(lambda: changes, within_s=10)
        return changes

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


def is_new(change: Change, old: dict[str, Any]) -> bool:
    _, kind, item = change
    same_address = item["spec"].get("ips") == old["spec"]["ips"]
    return kind != "DELETED" and item["metadata"]["uid"] != old["metadata"]["uid"] and same_address


def test_an_import_written_by_hand_is_adopted_and_left_emptied_after_the_last_export(world: World) -> None:
    written = {
        "apiVersion": "multicluster.x-k8s.io/v1alpha1",
        "kind": "ServiceImport",
        "metadata": {"name": "hand", "namespace": NAMESPACE},
        "spec": {"type": "ClusterSetIP", "ports": [{"name": "tcp", "port": PORT, "protocol": "TCP"}]},
    }
    lab.C2.kubectl("apply", "-f", "-", stdin=json.dumps(written))
    uid = lab.C2.get(IMPORTS, "hand", NAMESPACE)["metadata"]["uid"]
    service = lab.make_service("hand", NAMESPACE, ("tcp", "TCP", PORT, PORT))
    service["spec"]["selector"] = {"app": "web"}
    lab.C1.apply(service, lab.make_export("hand", NAMESPACE))
    exported = made_at(lab.C1.get(EXPORTS, "hand", NAMESPACE))
    adopted = lab.eventually(lambda: is_ready(find_import("hand", NAMESPACE)), within_s=60)
    took_s = to_time(ready_of(adopted)["lastTransitionTime"]) - exported
    lab.record("import by hand adopted and ready, to the second", took_s)
    assert took_s <= LIMIT_S
    assert adopted["metadata"]["uid"] == uid
    assert adopted["metadata"]["annotations"][OWNER] == "adopted"
    client = world.observers[1]
    answer = lab.eventually(
        lambda: client.sh(f"socat -T 2 - TCP:{lab.dns_name('hand', NAMESPACE)}:{PORT} </dev/null").strip(),
        within_s=60,
    )
    assert answer.startswith("web-")
    lab.record("import by hand adopted, and answering", time.time() - exported)

    began = time.time()
    lab.C1.delete("serviceexport", "hand", NAMESPACE)
    lab.eventually(lambda: is_emptied(lab.C2.get(IMPORTS, "hand", NAMESPACE)), within_s=60)
    lab.eventually(lambda: observer.ask(client, lab.dns_name("hand", NAMESPACE))[0] == "NXDOMAIN", within_s=60)
    lab.record("adopted import emptied after the export's end", time.time() - began)
    assert lab.C2.get(IMPORTS, "hand", NAMESPACE)["metadata"]["uid"] == uid


def ready_of(found: dict[str, Any]) -> dict[str, str]:
    """Return an import's condition Ready."""
    conditions: list[dict[str, str]] = found["status"]["conditions"]
    return {one["type"]: one for one in conditions}["Ready"]


def is_ready(found: dict[str, Any]) -> dict[str, Any]:
    """Return an import that is ready, nothing of one that isn't."""
    return found if ready_of(found)["status"] == "True" else {}


def is_emptied(found: dict[str, Any]) -> bool:
    return ready_of(found)["status"] == "False" and not found["spec"].get("ips") and not found["status"].get("clusters")


@pytest.fixture
def late() -> Iterator[str]:
    name = "e2e-follow-late"
    yield name
    for cluster in (lab.C1, lab.C2):
        cluster.delete("namespace", name, wait=False)


def test_a_namespace_made_later_gets_its_imports(world: World, late: str) -> None:
    server = lab.make_deployment("web", late, command=SERVE, probe_port=PORT, cpu=lab.MEASURED)
    service = lab.make_service("web", late, ("tcp", "TCP", PORT, PORT))
    lab.C1.apply(lab.make_namespace(late), server, service, lab.make_export("web", late))
    lab.C1.wait_pods(late, "web", 1)
    address = address_of(lab.eventually(lambda: find_import("web", late, lab.C1), within_s=60))
    client = world.observers[1]
    assert observer.ask(client, lab.dns_name("web", late)) == ("NXDOMAIN", [])

    began = time.time()
    lab.C2.apply(lab.make_namespace(late))
    imported = lab.eventually(lambda: find_import("web", late), within_s=60)
    assert address_of(imported) == address
    # What the cluster noted, to the second: what kubectl and a pod's Python take to ask is not the question.
    assert made_at(imported) - made_at(lab.C2.get("namespace", late)) <= LIMIT_S
    name = lab.dns_name("web", late)
    lab.eventually(lambda: observer.ask(client, name) == ("NOERROR", [address]), within_s=60)
    # Each of CoreDNS' replicas keeps a denial for a second: the next question may meet the other one's.
    fetch = f"socat -T 2 - TCP:{name}:{PORT} </dev/null"
    lab.eventually(lambda: client.sh(fetch).startswith("web-"), within_s=60)
    lab.record("namespace made later: import, name and answer", time.time() - began)
