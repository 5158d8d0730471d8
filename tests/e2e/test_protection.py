"""Nobody but syncer says where imported traffic goes, whatever rights they have; nothing of Kubernetes is hindered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import lab
import pytest

NAMESPACE = "e2e-protection"
PORT = 8080
IMPORTS = "serviceimports.multicluster.x-k8s.io"
SLICES = "endpointslices"
OURS = {"endpointslice.kubernetes.io/managed-by": "fleetboard.io"}
OF_WEB = "multicluster.kubernetes.io/service-name=web"
SYNCER = "system:serviceaccount:fleetboard-system:syncer"


@pytest.fixture(scope="module")
def world(namespaces: Callable[[str], str]) -> str:
    """Export a service of c1, whose pod nobody needs, and wait for it in c2."""
    namespaces(NAMESPACE)
    lab.C1.apply(lab.make_service("web", NAMESPACE, ("tcp", "TCP", PORT, PORT)), lab.make_export("web", NAMESPACE))
    lab.eventually(lambda: imported()["spec"].get("ips") and slices(), within_s=60)
    return NAMESPACE


def imported() -> dict[str, Any]:
    return lab.C2.get(IMPORTS, "web", NAMESPACE)


def slices() -> list[dict[str, Any]]:
    return lab.C2.list(SLICES, NAMESPACE, selector=OF_WEB)


def make_slice(name: str, count: int = 1, labels: dict[str, str] = OURS) -> dict[str, Any]:
    endpoints = [{"addresses": [f"10.113.{number // 250}.{number % 250 + 1}"]} for number in range(count)]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "tcp", "port": PORT, "protocol": "TCP"}],
    }


def make_import(name: str, **spec: object) -> dict[str, Any]:
    return {
        "apiVersion": "multicluster.x-k8s.io/v1alpha1",
        "kind": "ServiceImport",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"type": "ClusterSetIP", "ports": [], **spec},
    }


def patch(kind: str, name: str, change: dict[str, Any], *arguments: str) -> None:
    lab.C2.kubectl("-n", NAMESPACE, "patch", kind, name, "--type=merge", "-p", json.dumps(change), *arguments)


def create(manifest: dict[str, Any], *arguments: str, cluster: lab.Cluster = lab.C2) -> None:
    cluster.kubectl("create", "-f", "-", *arguments, stdin=json.dumps(manifest))


def refused(word: str) -> Any:
    return pytest.raises(lab.CommandError, match=f"(?s)denied request: {word}")


def test_address_status_and_owner_of_an_import_are_the_syncers(world: str) -> None:
    before = imported()
    with refused("spec.ips of a ServiceImport is written by"):
        patch(IMPORTS, "web", {"spec": {"ips": ["10.0.0.1"]}})
    with refused("the status of a ServiceImport is written by"):
        patch(IMPORTS, "web", {"status": {"clusters": [{"cluster": "c9"}]}}, "--subresource=status")
    with refused("annotation fleetboard.io/managed"):
        patch(IMPORTS, "web", {"metadata": {"annotations": {"fleetboard.io/managed": "adopted"}}})
    with refused("spec.ips of a ServiceImport is written by"):
        create(make_import("forged", ips=["10.0.0.1"]))
    assert imported()["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_an_import_may_be_labelled_and_written_by_hand(world: str) -> None:
    patch(IMPORTS, "web", {"metadata": {"labels": {"mine": "1"}}})
    create(make_import("hand"))
    # Applied again, as a pipeline would; what it says of the ports is put right by syncer.
    lab.C2.kubectl("apply", "-f", "-", stdin=json.dumps(make_import("hand", sessionAffinity="None")))
    lab.C2.delete(IMPORTS, "hand", NAMESPACE)


def test_an_import_whose_manifest_has_no_address_may_be_applied_again(world: str) -> None:
    filled = imported()["spec"]["ips"]
    patch(IMPORTS, "web", {"spec": {"ips": []}})
    lab.eventually(lambda: imported()["spec"].get("ips") == filled, within_s=60)


def test_our_slices_are_the_syncers_and_no_other_becomes_ours(world: str) -> None:
    name = slices()[0]["metadata"]["name"]
    with refused("EndpointSlices managed by fleetboard.io"):
        create(make_slice("forged"))
    with refused("endpoints, ports and labels of EndpointSlices"):
        patch(SLICES, name, {"endpoints": [{"addresses": ["10.0.0.1"]}]})
    with refused("endpoints, ports and labels of EndpointSlices"):
        patch(SLICES, name, {"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "me"}}})
    create(make_slice("mine", labels={"endpointslice.kubernetes.io/managed-by": "me"}))
    with refused("endpoints, ports and labels of EndpointSlices"):
        patch(SLICES, "mine", {"metadata": {"labels": OURS}})
    patch(SLICES, "mine", {"endpoints": [{"addresses": ["10.0.0.1"]}]})
    lab.C2.delete(SLICES, "mine", NAMESPACE)


def test_a_full_slice_may_lose_its_owner_as_the_garbage_collector_does_it(world: str) -> None:
    create(make_slice("full", count=1000), f"--as={SYNCER}")
    patch(SLICES, "full", {"metadata": {"ownerReferences": [], "annotations": {"mine": "1"}}})
    lab.C2.delete(SLICES, "full", NAMESPACE)


def test_a_deleted_slice_is_back(world: str) -> None:
    (old,) = slices()
    lab.C2.delete(SLICES, old["metadata"]["name"], NAMESPACE)
    lab.eventually(lambda: [one for one in slices() if one["metadata"]["uid"] != old["metadata"]["uid"]], within_s=60)


def test_a_namespace_with_imports_can_be_deleted(namespaces: Callable[[str], str]) -> None:
    name = namespaces("e2e-protection-gone")
    lab.C1.apply(lab.make_service("web", name, ("tcp", "TCP", PORT, PORT)), lab.make_export("web", name))
    lab.eventually(lambda: lab.C2.list(SLICES, name, selector=OF_WEB), within_s=60)
    lab.C2.kubectl("delete", "namespace", name, "--timeout=60s", timeout_s=70)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (
            ("--duration=721h", *("--bound-object-kind=Secret", "--bound-object-name=member-credential")),
            "30 days at most",
        ),
        (("--duration=1h",), "bound to the Secret whose deletion revokes it"),
        (("--duration=1h", *("--bound-object-kind=Secret", "--bound-object-name=bootstrap")), "bound to the Secret"),
    ],
)
def test_a_members_token_lives_no_longer_than_its_revocation_lets_it(arguments: tuple[str, ...], word: str) -> None:
    space = "fleetboard-default-c1"
    allowed = ("--duration=720h", "--bound-object-kind=Secret", "--bound-object-name=member-credential")
    assert lab.HUB.kubectl("-n", space, "create", "token", "member", *allowed)
    with refused(f"a token of a member .*{word}"):
        lab.HUB.kubectl("-n", space, "create", "token", "member", *arguments)
