"""Many services from both clusters at once: each record is there, no other is, and nothing of it is left afterwards.

``FLEETBOARD_SERVICES`` says how many each cluster exports; 500 is what is promised. Their pods are synthetic: what a
node's cnf would publish of them is written by the test, so that only names are tried here, and no pod has to start.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import lab
import pytest
import synthetic

SERVICES = int(os.environ.get("FLEETBOARD_SERVICES", "50"))
MEMBERS = (lab.C1, lab.C2)
WITHIN_S = 60.0 + SERVICES / 3
MEMORY = 105e6 + 0.09e6 * SERVICES
"""Bytes that a syncer may take: 150 MB at 500 services of two clusters."""
ASK = pathlib.Path(__file__).with_name("ask_all.py")
OF_SERVICE = "multicluster.kubernetes.io/service-name"


def replicas(cluster: lab.Cluster) -> list[str]:
    """Return the addresses of the cluster's crossdns."""
    return [pod["status"]["podIP"] for pod in both_ready(cluster)]


def both_ready(cluster: lab.Cluster) -> lab.Objects:
    return lab.eventually(lambda: two_ready(cluster), within_s=60)


def two_ready(cluster: lab.Cluster) -> lab.Objects:
    pods = cluster.list("pods", lab.SYSTEM, selector="app.kubernetes.io/name=crossdns")
    ready = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and lab.is_ready(pod)]
    return ready if len(ready) == 2 else []


def ask(cluster: lab.Cluster, server: str, questions: list[str]) -> synthetic.Records:
    """Ask one replica from its cluster's network."""
    node = lab.run("docker", "inspect", "--format", "{{.State.Pid}}", cluster.nodes()[0]).strip()
    inside = ("nsenter", f"--net=/proc/{node}/ns/net", sys.executable, str(ASK), server, "5353")
    found: synthetic.Records = json.loads(lab.run(*inside, stdin="\n".join(questions) + "\n", timeout_s=120))
    return found


def differences(found: synthetic.Records, wanted: synthetic.Records) -> list[str]:
    """Return, in short, which questions get a wrong answer."""
    wrong = [question for question in wanted if found[question] != wanted[question]]
    return [f"{question}: {str(found[question])[:80]}, not {str(wanted[question])[:80]}" for question in wrong]


def count_names(cluster: lab.Cluster) -> set[int]:
    """Return how many names each replica has."""
    return {int(metric(cluster, pod["metadata"]["name"], "fleetboard_dns_names")) for pod in both_ready(cluster)}


def metric(cluster: lab.Cluster, pod: str, name: str) -> float:
    text = cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{lab.SYSTEM}/pods/{pod}:9464/proxy/metrics")
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, f"{pod} shows no {name}"
    return float(found[1])


def memory_of(cluster: lab.Cluster, part: str) -> list[float]:
    pods = cluster.list("pods", lab.SYSTEM, selector=f"app.kubernetes.io/name={part}")
    return [
        metric(cluster, pod["metadata"]["name"], "process_resident_memory_bytes") for pod in pods if lab.is_ready(pod)
    ]


def apply(cluster: lab.Cluster, manifests: list[dict[str, Any]]) -> None:
    cluster.kubectl("create", "-f", "-", stdin="\n---\n".join(map(json.dumps, manifests)), timeout_s=300)


def everywhere(action: Any) -> None:
    """Do something to both clusters at once."""
    with concurrent.futures.ThreadPoolExecutor(len(MEMBERS)) as pool:
        for _ in pool.map(action, MEMBERS):
            pass


@pytest.fixture(scope="module")
def before() -> dict[str, set[int]]:
    """What there was: the names that each cluster's crossdns had."""
    return {
        cluster.name: lab.eventually(lambda: agreed_names(cluster), within_s=60)  # noqa: B023
        for cluster in MEMBERS
    }


def agreed_names(cluster: lab.Cluster) -> set[int]:
    """Return the one number of names that both replicas have, nothing while they differ."""
    found = count_names(cluster)
    return found if len(found) == 1 else set()


@pytest.fixture(scope="module")
def exported(before: dict[str, set[int]]) -> Iterator[list[synthetic.Exported]]:
    """Everything exported, by both."""
    every = [one for cluster in MEMBERS for one in synthetic.exported_by(cluster, SERVICES)]

    def export(cluster: lab.Cluster) -> None:
        cluster.apply(lab.make_namespace(synthetic.NAMESPACE), synthetic.attachments(synthetic.last_addresses(cluster)))
        apply(cluster, [item for one in every if one.cluster is cluster for item in one.render()])

    def clean(cluster: lab.Cluster) -> None:
        cluster.delete("namespace", synthetic.NAMESPACE)
        cluster.delete("nodeattachments", synthetic.NAMESPACE, lab.SYSTEM)

    everywhere(clean)
    try:
        everywhere(export)
        yield every
    finally:
        everywhere(clean)
        forget()


def forget() -> None:
    """Delete what the hub would remember of these services for a day."""
    space = "fleetboard-default"
    names = [item["metadata"]["name"] for item in lab.HUB.list("configmaps", space)]
    mine = [name for name in names if f"{synthetic.NAMESPACE}." in name]
    if mine:
        lab.HUB.kubectl("-n", space, "delete", "configmaps", *mine, "--wait=false", timeout_s=300)


def test_every_record_is_there_and_no_other(exported: list[synthetic.Exported], before: dict[str, set[int]]) -> None:
    began, wanted = time.time(), synthetic.wanted_records(exported)

    def all_right() -> bool:
        for cluster in MEMBERS:
            for server in replicas(cluster):
                wrong = differences(ask(cluster, server, list(wanted)), wanted)
                assert not wrong, f"{len(wrong)} of {len(wanted)} in {cluster.name}: {wrong[:3]}"
        return True

    lab.eventually(all_right, within_s=WITHIN_S, every_s=0.5)
    lab.record(
        f"{SERVICES} services x {synthetic.ENDPOINTS} of each cluster written: every record right", time.time() - began
    )
    for cluster in MEMBERS:
        (had,) = before[cluster.name]
        assert count_names(cluster) == {had + synthetic.count_names(exported) + (not had)}, (
            f"{cluster.name} has names that nobody exported"
        )


def test_what_holds_them_stays_small(exported: list[synthetic.Exported]) -> None:
    assert exported
    for cluster, part in ((lab.C1, "syncer"), (lab.C2, "syncer"), (lab.HUB, "syncer-hub")):
        used = max(memory_of(cluster, part))
        lab.record(
            f"{part} of {cluster.name} with {SERVICES} services x {synthetic.ENDPOINTS} of each cluster, MB", used / 1e6
        )
        assert used < MEMORY, f"{part} of {cluster.name} takes {used / 1e6:.0f} MB"


def test_nothing_is_left_once_the_exports_are_gone(
    exported: list[synthetic.Exported], before: dict[str, set[int]]
) -> None:
    began = time.time()

    def withdraw(cluster: lab.Cluster) -> None:
        cluster.kubectl("-n", synthetic.NAMESPACE, "delete", "serviceexports", "--all", "--wait=false", timeout_s=300)

    everywhere(withdraw)

    def all_gone() -> bool:
        for cluster in MEMBERS:
            assert count_names(cluster) == before[cluster.name], f"{cluster.name} still has names"
        return True

    lab.eventually(all_gone, within_s=WITHIN_S, every_s=0.5)
    lab.record(f"{SERVICES} exports of each cluster deleted: no name left", time.time() - began)
    lab.eventually(lambda: not left(), within_s=WITHIN_S, every_s=0.5)
    for cluster in MEMBERS:
        answers = ask(cluster, replicas(cluster)[0], [f"{one.domain} A" for one in exported])
        assert set(map(str, answers.values())) == {"NXDOMAIN"}


def left() -> list[str]:
    """Return what is still there of the services, in any cluster."""
    found = []
    for cluster in MEMBERS:
        found += cluster.list("serviceimports.multicluster.x-k8s.io", synthetic.NAMESPACE)
        found += cluster.list("endpointslices", synthetic.NAMESPACE, selector=OF_SERVICE)
        found += [item for item in cluster.list("fleetservices", lab.SYSTEM) if is_of_these(item)]
    for kind in ("fleetservices", "exportedservices", "endpointslices"):
        found += [item for item in lab.HUB.list(kind) if is_of_these(item)]
    return [f"{item['kind']} {item['metadata']['namespace']}/{item['metadata']['name']}" for item in found]


def is_of_these(item: dict[str, Any]) -> bool:
    return f"{synthetic.NAMESPACE}." in str(item["metadata"]["name"])
