"""Pods that never asked for it are attached, by namespace or all of them, and the others are left alone.

In c2, whose release is upgraded from one value of ``attach.default`` to the next and left as it was found: ``all``.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from collections.abc import Iterator
from typing import Any

import lab
import pytest
import trial
import yaml

RELEASE = "fleetboard-agent"
LABEL = "fleetboard.io/attach"
LABELLED, PLAIN = "e2e-attach", "e2e-attach-plain"
NAMESPACES = {LABELLED: "true", PLAIN: ""}
OTHER = "other"
OURS = "default/fleetboard"
ELEMENT = '{"name":"fleetboard","namespace":"default"}'
NAMED = '{"name":"fleetboard","namespace":"default","interface":"fleetboard"}'


def upgrade(mode: str) -> None:
    lab.C2.helm(
        *("upgrade", RELEASE, trial.CHART, "--namespace", lab.SYSTEM, "--reuse-values", f"--set=attach.default={mode}")
    )


def make_pod(name: str, namespace: str, **changes: Any) -> dict[str, Any]:
    container = {"name": "main", "image": lab.TOOLS, "imagePullPolicy": "Never", "command": ["sleep", "infinity"]}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]} | changes.pop("spec", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace} | changes,
        "spec": spec,
    }


def asking(networks: str) -> dict[str, str]:
    return {lab.NETWORKS: networks}


def admit(*pods: dict[str, Any]) -> list[str | None]:
    """Return which networks each pod would ask for once the API server had taken it."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": pods})
    answer = yaml.safe_load_all(lab.C2.kubectl("create", "--dry-run=server", "-o", "yaml", "-f", "-", stdin=text))
    return [pod["metadata"].get("annotations", {}).get(lab.NETWORKS) for pod in answer]


def wait_until_admitted(pod: dict[str, Any], wanted: str | None) -> None:
    """Wait for the API server to know the policy as it is now."""
    lab.eventually(lambda: admit(pod) == [wanted], within_s=60)


@pytest.fixture(scope="module", autouse=True)
def _lab_is_left_as_it_was() -> Iterator[None]:
    for name, label in NAMESPACES.items():
        lab.C2.delete("namespace", name)
        namespace = lab.make_namespace(name)
        namespace["metadata"]["labels"] = {LABEL: label} if label else {}
        lab.C2.apply(namespace)
    network = {"cniVersion": "0.3.1", "type": "ptp", "ipam": {"type": "host-local", "subnet": "10.98.0.0/24"}}
    lab.C2.apply(
        {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": OTHER, "namespace": LABELLED},
            "spec": {"config": json.dumps(network)},
        }
    )
    found = json.loads(lab.C2.helm("get", "values", RELEASE, "--namespace", lab.SYSTEM, "--output", "json"))
    yield
    upgrade(found["attach"]["default"])
    for name in NAMESPACES:
        lab.C2.delete("namespace", name, wait=False)


@pytest.fixture(scope="module")
def by_namespace() -> None:
    upgrade("namespaces")
    wait_until_admitted(make_pod("probe", LABELLED), OURS)


@dataclasses.dataclass(frozen=True)
class Case:
    """What a pod asks for, and what it asks for once admitted."""

    networks: str
    admitted: str


CASES = (
    Case("", OURS),
    Case(" ", OURS),
    Case("a", f"a,{OURS}"),
    Case(" a , ns/b@eth9\n", f"a , ns/b@eth9,{OURS}"),
    Case("my-fleetboard,fleetboard-2,c@fleetboard", f"my-fleetboard,fleetboard-2,c@fleetboard,{OURS}"),
    Case("null", f"null,{OURS}"),
    # It is there, under whichever namespace and interface name.
    Case("fleetboard", "fleetboard"),
    Case(OURS, OURS),
    Case("a, x/fleetboard@eth9", "a, x/fleetboard@eth9"),
    Case('[{"name": "a"}, {"name" : "fleetboard"}]', '[{"name": "a"}, {"name" : "fleetboard"}]'),
    Case('[{"Name":"fleetboard"}]', '[{"Name":"fleetboard"}]'),
    # JSON, with whatever may stand in it.
    Case("[]", f"[{ELEMENT}]"),
    Case(" [\n] ", f"[{ELEMENT}]"),
    Case('[{"name":"a","namespace":"fleetboard"}]', f'[{{"name":"a","namespace":"fleetboard"}},{ELEMENT}]'),
    Case('[{"name":"a","cni-args":{"x":["]"]}}]', f'[{{"name":"a","cni-args":{{"x":["]"]}}}},{ELEMENT}]'),
    Case('[{"name":"a"},\n {"name":"b"}]\n', f'[{{"name":"a"}},\n {{"name":"b"}},{ELEMENT}]'),
    # Somebody chose a name of those given by position, which could be ours.
    Case("a@net2", "a@net2,default/fleetboard@fleetboard"),
    Case("a@net2x", f"a@net2x,{OURS}"),
    Case('[{"name":"a","interface": "net2"}]', f'[{{"name":"a","interface": "net2"}},{NAMED}]'),
    # What Multus refuses stays as it is, and is refused by it.
    Case('{"name":"a"}', '{"name":"a"}'),
    Case('[{"name":"a"}', '[{"name":"a"}'),
    Case('"a"', '"a"'),
)


@pytest.mark.usefixtures("by_namespace")
def test_ours_is_appended_to_what_a_pod_asks_for_and_only_once() -> None:
    pods = [make_pod(f"p{n}", LABELLED, annotations=asking(case.networks)) for n, case in enumerate(CASES)]
    assert admit(*pods) == [case.admitted for case in CASES]
    again = [make_pod(f"p{n}", LABELLED, annotations=asking(case.admitted)) for n, case in enumerate(CASES)]
    assert admit(*again) == [case.admitted for case in CASES]
    huge = ",".join(["namespace/network@interface"] * 8000)
    assert admit(make_pod("huge", LABELLED, annotations=asking(huge))) == [f"{huge},{OURS}"]


@pytest.mark.usefixtures("by_namespace")
def test_pods_that_must_not_wait_for_cnf_are_left_alone() -> None:
    static = {"annotations": {"kubernetes.io/config.mirror": "x"}, "spec": {"nodeName": lab.C2.nodes()[0]}}
    left = (
        make_pod("host", LABELLED, spec={"hostNetwork": True}),
        make_pod("out", LABELLED, labels={LABEL: "false"}),
        make_pod("static", LABELLED, **static),
        make_pod("plain", PLAIN),
        make_pod("plain", "kube-system"),
        make_pod("plain", lab.SYSTEM),
    )
    assert admit(*left) == [None] * len(left)
    others = make_pod("pod", LABELLED, annotations={"a/b": "c"}, labels={LABEL: "true"}, spec={"hostNetwork": False})
    assert admit(others) == [OURS]


@pytest.fixture(scope="module")
def running(by_namespace: None) -> None:
    json_form = json.dumps([{"name": OTHER, "namespace": LABELLED}])
    lab.C2.apply(
        make_pod("bare", LABELLED),
        make_pod("out", LABELLED, labels={LABEL: "false"}),
        make_pod("host", LABELLED, spec={"hostNetwork": True}),
        make_pod("short", LABELLED, annotations=asking(OTHER)),
        make_pod("json", LABELLED, annotations=asking(json_form)),
        make_pod("named", LABELLED, annotations=asking(f"{OTHER}@net2")),
        make_pod("plain", PLAIN),
    )
    for namespace in NAMESPACES:
        lab.C2.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s", timeout_s=70)


def interfaces(name: str, namespace: str = LABELLED) -> dict[str, str]:
    """Return a pod's interfaces but the loopback, and their IPv4 addresses."""
    shown = json.loads(lab.Pod(lab.C2, namespace, name).exec("ip", "-j", "-4", "address"))
    return {link["ifname"]: link["addr_info"][0]["local"] for link in shown if link["ifname"] != "lo"}


def is_fleet(address: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network("10.112.0.0/12")


@pytest.mark.usefixtures("running")
def test_a_labelled_namespaces_pods_run_with_the_interface() -> None:
    found = interfaces("bare")
    assert list(found) == ["eth0", "net1"]
    assert is_fleet(found["net1"])
    peer = interfaces("json")["net2"]
    lab.Pod(lab.C2, LABELLED, "bare").exec("ping", "-c1", "-w30", "-i0.2", "-I", "net1", peer, timeout_s=60)


@pytest.mark.usefixtures("running")
def test_pods_without_it_run_as_ever() -> None:
    assert list(interfaces("plain", PLAIN)) == ["eth0"]
    assert list(interfaces("out")) == ["eth0"]
    assert not any(is_fleet(address) for address in interfaces("host").values())


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(("pod", "theirs", "ours"), [("short", "net1", "net2"), ("json", "net1", "net2")])
def test_other_networks_keep_their_names(pod: str, theirs: str, ours: str) -> None:
    found = interfaces(pod)
    assert found[theirs].startswith("10.98.0.")
    assert is_fleet(found[ours])


@pytest.mark.usefixtures("running")
def test_ours_avoids_a_name_that_another_took() -> None:
    found = interfaces("named")
    assert found["net2"].startswith("10.98.0.")
    assert is_fleet(found["fleetboard"])


@pytest.mark.usefixtures("running")
def test_all_means_every_namespace_but_those_that_say_no_and_ours() -> None:
    upgrade("all")
    wait_until_admitted(make_pod("probe", PLAIN), OURS)
    lab.C2.apply(make_pod("late", PLAIN))
    lab.C2.kubectl("-n", PLAIN, "wait", "--for=condition=Ready", "pod/late", "--timeout=60s", timeout_s=70)
    assert is_fleet(interfaces("late", PLAIN)["net1"])
    exempt = [make_pod("probe", "kube-system"), make_pod("probe", lab.SYSTEM)]
    assert admit(*exempt, make_pod("probe", LABELLED)) == [None, None, OURS]
    lab.C2.kubectl("label", "namespace", PLAIN, f"{LABEL}=false")
    wait_until_admitted(make_pod("probe", PLAIN), None)


@pytest.mark.usefixtures("running")
def test_none_leaves_no_policy_behind_and_running_pods_attached() -> None:
    upgrade("none")
    wait_until_admitted(make_pod("probe", LABELLED), None)
    for kind in ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings"):
        assert not [item for item in lab.C2.list(kind) if "fleetboard" in item["metadata"]["name"]]
    assert is_fleet(interfaces("bare")["net1"])
