"""The other way to attach every pod: Multus' own default networks (docs/attach.md), in c2.

Multus' configuration is put back as it was, whatever happens. The policy that attaches every pod of the lab leaves
the namespace alone: our second interface would be refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import lab
import pytest

NAMESPACE = "e2e-defaults"
CONFIG, KEY = "multus-daemon-config", "daemon-config.json"
DEFAULTS = {"defaultNetworks": ["fleetboard"], "multusNamespace": "default"}
EXEMPT = ["kube-system", lab.SYSTEM]


def write_config(text: str) -> None:
    """Give Multus a configuration and have its daemon read it."""
    patch = json.dumps({"data": {KEY: text}})
    lab.C2.kubectl("-n", "kube-system", "patch", "configmap", CONFIG, "--type=merge", "-p", patch)
    lab.C2.kubectl("-n", "kube-system", "rollout", "restart", "daemonset/kube-multus-ds")
    lab.C2.kubectl(
        "-n", "kube-system", "rollout", "status", "daemonset/kube-multus-ds", "--timeout=120s", timeout_s=130
    )


class Multus:
    """Multus' configuration: how it was, and how it is."""

    def __init__(self) -> None:
        self._before = self._now = lab.C2.get("configmap", CONFIG, "kube-system")["data"][KEY]

    def configure(self, **changes: Any) -> None:
        """Change these keys of what was there."""
        self._write(json.dumps(json.loads(self._before) | changes))

    def put_back(self) -> None:
        """Undo every change."""
        if self._now != self._before:
            self._write(self._before)

    def _write(self, text: str) -> None:
        self._now = text
        write_config(text)


@pytest.fixture(scope="module")
def multus() -> Iterator[Multus]:
    made = Multus()
    yield made
    made.put_back()


@pytest.fixture(scope="module", autouse=True)
def _namespace() -> Iterator[None]:
    lab.C2.delete("namespace", NAMESPACE)
    namespace = lab.make_namespace(NAMESPACE)
    namespace["metadata"]["labels"] = lab.ALONE
    lab.C2.apply(namespace)
    yield
    lab.C2.delete("namespace", NAMESPACE, wait=False)


def start(name: str, namespace: str) -> lab.Pod:
    pod = lab.make_deployment(name, namespace, attached=False)["spec"]["template"]
    pod["metadata"] |= {"name": name, "namespace": namespace}
    lab.C2.apply({"apiVersion": "v1", "kind": "Pod"} | pod)
    lab.C2.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s", timeout_s=70)
    return lab.Pod(lab.C2, namespace, name)


def replace_cnf() -> str:
    (node,) = lab.C2.nodes()
    old = lab.C2.cnf_pod(node)
    lab.C2.delete("pod", old, lab.SYSTEM)
    lab.eventually(lambda: lab.C2.cnf_pod(node) != old, within_s=30)
    return lab.C2.cnf_pod(node)


def is_cnf_ready(name: str) -> bool:
    return lab.is_ready(lab.C2.get("pod", name, lab.SYSTEM))


def test_with_our_namespace_exempt_every_pod_is_attached_and_cnf_starts(multus: Multus) -> None:
    multus.configure(**DEFAULTS, systemNamespaces=EXEMPT)
    assert start("plain", NAMESPACE).fleet_address
    with pytest.raises(lab.CommandError, match="net1"):
        start("e2e-defaults", lab.SYSTEM).sh("ip link show net1")
    lab.C2.delete("pod", "e2e-defaults", lab.SYSTEM, wait=False)
    cnf = replace_cnf()
    lab.eventually(lambda: is_cnf_ready(cnf), within_s=60, every_s=0.5)


def test_without_it_cnf_waits_for_itself_until_it_is_exempt(multus: Multus) -> None:
    multus.configure(**DEFAULTS)
    cnf = replace_cnf()

    def refused() -> bool:
        events = lab.C2.kubectl("-n", lab.SYSTEM, "get", "events", "--field-selector", f"involvedObject.name={cnf}")
        return "FailedCreatePodSandBox" in events and "cnf on this node does not answer" in events

    lab.eventually(refused, within_s=90, every_s=1)
    assert not is_cnf_ready(cnf)
    multus.put_back()
    lab.eventually(lambda: is_cnf_ready(cnf), within_s=120, every_s=0.5)
