"""Nodes that are registered with the startup taint get pods once cnf can attach them, and none while Multus is away.

In c1, all of whose nodes are tainted: what joins the cluster must start on them nevertheless.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import lab
import outage
import pytest
import trial

NAMESPACE = "e2e-taint"
RELEASE = "fleetboard-agent"
TAINT = "fleetboard.io/cnf-not-ready"
THEIRS = {"key": "example.com/theirs", "value": "x", "effect": "PreferNoSchedule"}
CONFIG = "/etc/cni/net.d/00-multus.conf"
PARTS = ("syncer", "crossdns")


def upgrade(*, on: bool) -> None:
    switch = f"--set=cnf.startupTaint={str(on).lower()}"
    lab.C1.helm("upgrade", RELEASE, trial.CHART, "--namespace", lab.SYSTEM, "--reuse-values", switch)


def taints(node: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = lab.C1.get("node", node)["spec"].get("taints", [])
    return found


def is_tainted(node: str) -> bool:
    return any(taint["key"] == TAINT for taint in taints(node))


def replace_cnf(nodes: list[str]) -> None:
    """Replace the cnf pods, whose DaemonSet is OnDelete, and wait for the new ones to be there."""
    old = {node: lab.C1.cnf_pod(node) for node in nodes}
    for pod in old.values():
        lab.C1.delete("pod", pod, lab.SYSTEM, wait=False)
    lab.eventually(lambda: all(lab.C1.cnf_pod(node) != pod for node, pod in old.items()), within_s=outage.READY_S)


def is_cnf_ready(node: str) -> bool:
    return lab.is_ready(lab.C1.get("pod", lab.C1.cnf_pod(node), lab.SYSTEM))


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[str]]:
    found = lab.C1.nodes()
    lab.C1.delete("namespace", NAMESPACE)
    lab.C1.apply(lab.make_namespace(NAMESPACE))
    upgrade(on=True)
    try:
        yield found
    finally:
        upgrade(on=False)
        replace_cnf(found)
        for node in found:
            for key in (TAINT, THEIRS["key"]):
                with contextlib.suppress(lab.CommandError):
                    lab.C1.kubectl("taint", "node", node, f"{key}-")
            lab.eventually(lambda node=node: is_cnf_ready(node), within_s=outage.READY_S, every_s=0.5)  # type: ignore[misc]
        lab.C1.delete("namespace", NAMESPACE, wait=False)


def start(name: str, node: str = "") -> None:
    pod = lab.make_deployment(name, NAMESPACE)["spec"]["template"]
    pod["metadata"] |= {"name": name, "namespace": NAMESPACE}
    if node:
        pod["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node}
    lab.C1.apply({"apiVersion": "v1", "kind": "Pod"} | pod)


def wait_until_held(name: str) -> None:
    """Wait for the scheduler to say that a taint keeps the pod."""

    def held() -> bool:
        conditions = lab.C1.get("pod", name, NAMESPACE)["status"]["conditions"]
        return any(
            one["type"] == "PodScheduled" and "untolerated taint" in one.get("message", "") for one in conditions
        )

    lab.eventually(held, within_s=60)


def runs_attached(name: str) -> None:
    lab.C1.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=180s", timeout_s=190)
    assert lab.Pod(lab.C1, NAMESPACE, name).fleet_address


def test_pods_wait_for_cnf_and_what_joins_the_cluster_does_not(nodes: list[str]) -> None:
    for node in nodes:
        for taint in (f"{TAINT}=:NoSchedule", "{key}={value}:{effect}".format(**THEIRS)):
            lab.C1.kubectl("taint", "node", node, taint)
    start("first")
    wait_until_held("first")
    for part in PARTS:
        lab.C1.kubectl("-n", lab.SYSTEM, "delete", "pod", "-l", f"app.kubernetes.io/name={part}", "--wait=false")
    began = time.monotonic()
    replace_cnf(nodes)
    while any(is_tainted(node) for node in nodes):
        placed = lab.C1.get("pod", "first", NAMESPACE)["spec"].get("nodeName")
        assert not placed or not is_tainted(placed)
        assert time.monotonic() - began < outage.READY_S, f"a node is tainted after {outage.READY_S} s"
        time.sleep(0.1)
    lab.record("startup taint: from cnf's replacement to the end of the taint on all nodes", time.monotonic() - began)
    runs_attached("first")
    for node in nodes:
        assert THEIRS in taints(node)
    for part in PARTS:
        lab.C1.kubectl("-n", lab.SYSTEM, "rollout", "status", f"deploy/{part}", "--timeout=180s", timeout_s=190)


def test_the_taint_is_back_while_multus_is_away(nodes: list[str]) -> None:
    node = nodes[-1]
    assert not is_tainted(node)
    began = time.monotonic()
    lab.C1.node_exec(node, "mv", CONFIG, "/run/e2e-multus.conf")
    try:
        lab.eventually(lambda: is_tainted(node), within_s=60)
        lab.record("startup taint: from Multus' end to the taint", time.monotonic() - began)
        start("second", node)
        wait_until_held("second")
    finally:
        lab.C1.node_exec(node, "sh", "-c", f"cp /run/e2e-multus.conf {CONFIG}.new && mv {CONFIG}.new {CONFIG}")
    lab.eventually(lambda: not is_tainted(node), within_s=60)
    runs_attached("second")


PATCH = """
import json, os, ssl, sys, urllib.error, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
request = urllib.request.Request(
    f"https://{os.environ['KUBERNETES_SERVICE_HOST']}/api/v1/nodes/{sys.argv[1]}",
    method="PATCH",
    data=sys.argv[2].encode(),
    headers={
        "Authorization": "Bearer " + open(f"{folder}/token").read(),
        "Content-Type": "application/merge-patch+json",
    },
)
try:
    urllib.request.urlopen(request, context=ssl.create_default_context(cafile=f"{folder}/ca.crt"))
    print("allowed")
except urllib.error.HTTPError as err:
    print(json.load(err)["message"])
"""


def test_a_cnf_that_is_taken_over_can_change_nothing_else_of_nodes(nodes: list[str]) -> None:
    other, node = nodes[0], nodes[-1]

    def patch(target: str, change: dict[str, Any]) -> str:
        command = ("python", "-c", PATCH, target, json.dumps(change))
        return lab.C1.kubectl("-n", lab.SYSTEM, "exec", lab.C1.cnf_pod(node), "-c", "cnf", "--", *command)

    others = [taint for taint in taints(node) if taint["key"] != TAINT]
    assert "allowed" in patch(node, {"spec": {"taints": others}})
    assert "no taint but" in patch(node, {"spec": {"taints": []}})
    assert "may not evict" in patch(node, {"spec": {"taints": [*others, {"key": TAINT, "effect": "NoExecute"}]}})
    assert "nothing of a node but" in patch(node, {"spec": {"unschedulable": True}})
    assert "nothing of a node but" in patch(node, {"metadata": {"labels": {"a": "b"}}})
    assert "own node only" in patch(other, {"metadata": {"labels": {"a": "b"}}})
