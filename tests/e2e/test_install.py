"""Upgrade, uninstall and install again, as a user does it by Helm; the tests go on from each other, in this order."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import lab
import observer
import pytest
import trial
import yaml

NAMESPACE = "e2e-install"
PORT = 8080
LIMIT_S = 5.0
RELEASE = "fleetboard-agent"
TAINT = "fleetboard.io/cnf-not-ready"
FLEET_PEERS = "peers.fleetboard.io"
HOME = {"one": lab.C1, "two": lab.C2}
SERVE = observer.serve(PORT)


@dataclasses.dataclass(frozen=True)
class World:
    """Service ``one`` is served by c1, ``two`` by c2; each cluster has an observer of either.

    Attributes:
        observers: Cluster and service to the pod that asks for it.
        addresses: Service to its virtual address.
        blocks: c2's blocks before anything was done.
        tag: Tag of the image that is installed.
    """

    observers: dict[tuple[str, str], lab.Pod]
    addresses: dict[str, str]
    blocks: list[str]
    tag: str


def is_served(sample: observer.Sample) -> bool:
    return (sample.rcode, sample.outcome) == ("NOERROR", "served")


def is_gone(sample: observer.Sample) -> bool:
    return sample.rcode == "NXDOMAIN"


def blocks_of(cluster: lab.Cluster) -> list[str]:
    found: list[str] = lab.HUB.get(FLEET_PEERS, cluster.name, "fleetboard-default")["status"]["clusterCidrs"]
    return found


def last_address(pod: lab.Pod) -> str:
    """Return the address that an observer got last; one question may take it 5 s."""
    answers = [sample.addresses for sample in observer.samples(pod, since=time.time() - 30) if sample.addresses]
    return answers[-1][0]


@pytest.fixture(scope="module")
def world(namespaces: Callable[[str], str]) -> Iterator[World]:
    namespaces(NAMESPACE)
    for service, cluster in HOME.items():
        cluster.apply(
            lab.make_deployment(service, NAMESPACE, command=SERVE, probe_port=PORT, cpu=lab.MEASURED),
            lab.make_service(service, NAMESPACE, ("tcp", "TCP", PORT, PORT)),
            lab.make_export(service, NAMESPACE),
        )
    lab.C2.apply(lab.make_deployment("leaver", NAMESPACE))
    observers = {}
    for cluster in (lab.C1, lab.C2):
        for service in ("one", "two"):
            host = lab.dns_name(service, NAMESPACE)
            cluster.apply(observer.make(f"observer-{service}", NAMESPACE, host=host, port=PORT))
    lab.C2.wait_pods(NAMESPACE, "leaver", 1)
    for cluster in (lab.C1, lab.C2):
        for service in ("one", "two"):
            (observers[cluster.name, service],) = cluster.wait_pods(NAMESPACE, f"observer-{service}", 1)
    for pod in observers.values():
        observer.settle(pod, since=time.time(), within_s=60, holds=is_served)
    addresses = {service: last_address(observers["c1", service]) for service in ("one", "two")}
    image = lab.C2.get("deployment", "syncer", lab.SYSTEM)["spec"]["template"]["spec"]["containers"][0]["image"]
    world = World(observers, addresses, blocks_of(lab.C2), image.rpartition(":")[2])
    try:
        yield world
    finally:
        if RELEASE not in lab.C2.helm("-n", lab.SYSTEM, "list", "--short"):
            install(world.tag)


def install(tag: str, *settings: str) -> None:
    """Join c2 as the install guide says."""
    values = trial.create_token("c2")
    file = pathlib.Path(__file__).parents[2] / "build/e2e/c2-values.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(json.dumps({"hub": values, "image": {"tag": tag}, "attach": {"default": "all"}}))
    try:
        where = ("--namespace", lab.SYSTEM, "--create-namespace", "--wait", "--timeout=2m")
        lab.C2.helm("install", RELEASE, trial.CHART, f"--values={file}", *where, *settings)
    finally:
        file.unlink()
    lab.C2.kubectl("-n", lab.SYSTEM, "wait", "--for=create", "peerreport/c2", "--timeout=60s", timeout_s=70)
    lab.C2.kubectl("-n", lab.SYSTEM, "wait", "--for=condition=Joined", "peerreport/c2", "--timeout=60s")


EXPORTS, IMPORTS = "serviceexports.multicluster.x-k8s.io", "serviceimports.multicluster.x-k8s.io"
RELEASE_LABEL = "multicluster.x-k8s.io/release-version"
OURS = "v0.5.2"


def release_of(crd: str) -> str:
    return str(lab.C2.get("crd", crd)["metadata"]["labels"][RELEASE_LABEL])


@contextlib.contextmanager
def released(releases: dict[str, str]) -> Iterator[None]:
    """Let c2's CRDs say that they are of other releases."""
    try:
        for crd, release in releases.items():
            lab.C2.kubectl("label", "--overwrite", "crd", crd, f"{RELEASE_LABEL}={release}")
        yield
    finally:
        for crd in releases:
            lab.C2.kubectl("label", "--overwrite", "crd", crd, f"{RELEASE_LABEL}={OURS}")


def test_an_upgrade_with_a_changed_value_goes_by_unnoticed(world: World) -> None:
    began = time.time()
    # What an uninstall has to take back besides: it goes on with these.
    switches = ("--set=attach.default=namespaces", "--set=cnf.startupTaint=true")
    settings = ("--reset-then-reuse-values", "--set=logLevel=debug", *switches, "--wait", "--timeout=3m")
    # One that is older is exchanged by the upgrade's hook, and one that is newer stays.
    with released({EXPORTS: "v99.0.0", IMPORTS: "v0.4.1"}):
        lab.C2.helm("upgrade", RELEASE, trial.CHART, "--namespace", lab.SYSTEM, *settings)
        assert {name: release_of(name) for name in (EXPORTS, IMPORTS)} == {EXPORTS: "v99.0.0", IMPORTS: OURS}
    for part in ("deploy/syncer", "deploy/crossdns"):
        lab.C2.kubectl("-n", lab.SYSTEM, "rollout", "status", part, "--timeout=2m", timeout_s=130)
        shown = lab.C2.kubectl("-n", lab.SYSTEM, "get", part, "-o", "jsonpath={.spec.template.spec.containers[0].env}")
        assert {"name": "LOG_LEVEL", "value": "debug"} in json.loads(shown)
    lab.record("helm upgrade with a changed value", time.time() - began)
    for (cluster, service), pod in world.observers.items():
        seen = observer.samples(pod, since=began)
        assert len(seen) > 20
        lab.record(f"helm upgrade: questions sent again by {cluster}", sum(sample.tries - 1 for sample in seen))
        lost = observer.noticed(seen)
        assert not lost, f"{cluster} asking for {service}: {lost}; its server says: {log_of(service)}"


def log_of(service: str) -> str:
    return HOME[service].kubectl("-n", NAMESPACE, "logs", f"deploy/{service}")[-2000:]


@dataclasses.dataclass(frozen=True)
class Uninstalled:
    """What ``helm uninstall`` printed, and when it began and ended."""

    output: str
    began: float
    ended: float
    attached: dict[str, str]

    def said(self, words: str) -> list[dict[str, Any]]:
        """Return what the hook logged with these words."""
        lines = [line for line in self.output.splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, lines) if words in line["msg"]]


@pytest.fixture(scope="module")
def uninstalled(world: World) -> Uninstalled:
    attached = {
        f"{one['podNamespace']}/{one['podName']}": one["addresses"][0]
        for node in lab.C2.list("nodeattachments", lab.SYSTEM)
        for one in node["attachments"]
    }
    for node in lab.C2.nodes():
        lab.C2.kubectl("taint", "node", node, f"{TAINT}=:NoSchedule")
    began = time.time()
    # Helm shows what hooks say on stderr.
    command = f"helm --kube-context {lab.C2.context} uninstall {RELEASE} -n {lab.SYSTEM} --wait --timeout=4m 2>&1"
    output = lab.run("sh", "-c", command, timeout_s=270)
    lab.record("helm uninstall", time.time() - began)
    return Uninstalled(output, began, time.time(), attached)


def test_an_uninstall_first_lists_every_attached_pod(uninstalled: Uninstalled) -> None:
    lines = uninstalled.said("a pod loses its second interface")
    said = {re.split(r"[ ]", line["pod"])[0]: line["pod"] for line in lines}
    assert said.keys() == uninstalled.attached.keys()
    for pod, address in uninstalled.attached.items():
        assert address in said[pod]
    (last,) = uninstalled.said("removed Fleetboard from all nodes")
    assert max(line["ts"] for line in lines) < last["ts"]


def test_other_clusters_see_its_exports_gone_and_feel_nothing_else(world: World, uninstalled: Uninstalled) -> None:
    (told,) = uninstalled.said("deleted this cluster's exports on the hub")
    withdrawn = datetime.datetime.fromisoformat(told["ts"]).timestamp()
    took_s = observer.settle(world.observers["c1", "two"], since=withdrawn, within_s=LIMIT_S, holds=is_gone)
    lab.record("uninstall: the leaver's names are gone elsewhere after the hub withdrew its exports", took_s)
    before = observer.samples(world.observers["c1", "two"], since=uninstalled.began)
    assert [sample for sample in before if sample.at < withdrawn - 1 and not is_served(sample)] == []
    own = observer.samples(world.observers["c1", "one"], since=uninstalled.began)
    assert [sample for sample in own if not is_served(sample)] == []
    assert not [item for item in lab.C1.list("serviceimports", NAMESPACE) if item["metadata"]["name"] == "two"]


LEFT = r"""
find /opt/cni/bin -name '*fleetboard*'
find /var/lib/fleetboard /run/fleetboard /etc/cni 2>/dev/null -name '*fleetboard*'
grep -rlF '"fleetboard"' /var/lib/cni || true
find /var/lib/cni -name 'fleetboard*'
ip -o link | grep -E 'fleet0|fv[0-9a-f]{11}' || true
"""


def test_nodes_and_dns_hold_nothing_that_is_ours(uninstalled: Uninstalled) -> None:
    for node in lab.C2.nodes():
        assert lab.C2.node_exec(node, "sh", "-c", LEFT) == ""
    config = lab.C2.get("configmap", "coredns", "kube-system")
    original = lab.HUB.get("configmap", "coredns", "kube-system")["data"]["Corefile"]
    assert config["data"]["Corefile"] == original, "to the byte"
    for item in (config, lab.C2.get("deployment", "coredns", "kube-system")["spec"]["template"]):
        assert "fleetboard" not in json.dumps(item["metadata"].get("annotations", {}))
    lab.C2.kubectl("-n", "kube-system", "rollout", "status", "deploy/coredns", "--timeout=60s", timeout_s=70)


def test_the_cluster_holds_only_our_definitions(uninstalled: Uninstalled) -> None:
    lab.eventually(lambda: not lab.C2.list("pods", lab.SYSTEM), within_s=30)
    for kind in ("deployments", "daemonsets", "jobs", "services", "roles", "rolebindings", "leases"):
        assert not lab.C2.list(kind, lab.SYSTEM), kind
    for kind in ("secrets", "serviceaccounts", "configmaps"):
        left = {item["metadata"]["name"] for item in lab.C2.list(kind, lab.SYSTEM)}
        assert left <= {"default", "kube-root-ca.crt"}, kind
    for kind in ("peers", "peerreports", "fleetnodes", "nodeattachments", "claims", "fleetservices"):
        assert not lab.C2.list(f"{kind}.fleetboard.io"), kind
    policies = [f"{verb}admissionpolic{end}" for verb in ("mutating", "validating") for end in ("ies", "ybindings")]
    for kind in ("clusterroles", "clusterrolebindings", *policies):
        left = {item["metadata"]["name"] for item in lab.C2.list(kind)}
        assert not [name for name in left if "fleetboard" in name], kind
    assert not lab.C2.list("endpointslices", selector="endpointslice.kubernetes.io/managed-by=fleetboard.io")
    for node in lab.C2.list("nodes"):
        assert TAINT not in {taint["key"] for taint in node["spec"].get("taints", [])}
    for found in lab.C2.list("serviceimports"):
        assert not found["spec"].get("ips"), "only what users wrote by hand is left, emptied"
    assert lab.C2.list("serviceexports", NAMESPACE), "what users wrote stays"


def test_pods_that_were_attached_still_end(world: World, uninstalled: Uninstalled) -> None:
    (pod,) = lab.C2.list("pods", NAMESPACE, selector="app=leaver")
    began = time.time()
    # The Deployment would start another, which waits for the network that isn't there.
    lab.C2.kubectl("-n", NAMESPACE, "scale", "deployment/leaver", "--replicas=0")
    lab.C2.kubectl(
        "-n", NAMESPACE, "wait", "--for=delete", f"pod/{pod['metadata']['name']}", "--timeout=30s", timeout_s=40
    )
    lab.record("a pod that was attached ends after the uninstall", time.time() - began)
    with pytest.raises(lab.CommandError, match="net1"):
        world.observers["c2", "one"].sh("ip link show net1")


def test_installed_again_names_and_addresses_are_as_before_and_traffic_returns(world: World) -> None:
    began = time.time()
    install(world.tag)
    lab.record("token and helm install until joined", time.time() - began)
    assert blocks_of(lab.C2) == world.blocks
    for (_, service), pod in world.observers.items():
        back_s = observer.settle(pod, since=began, within_s=90, holds=is_served)
        assert observer.samples(pod, since=began + back_s)[-1].addresses == [world.addresses[service]]
        lab.record(f"installed again: {service} answers in {pod.cluster.name} after", back_s)
    config = lab.C2.get("configmap", "coredns", "kube-system")["data"]["Corefile"]
    assert config.startswith(lab.HUB.get("configmap", "coredns", "kube-system")["data"]["Corefile"])
    values = yaml.safe_load(lab.C2.helm("-n", lab.SYSTEM, "get", "values", RELEASE))
    assert "logLevel" not in values
