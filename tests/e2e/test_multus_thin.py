"""Multus of the thin kind on a node of c2, called as containerd calls it, beside the thick one that serves the node.

Thin is one executable that the runtime starts for each call: it reads the pod and the NAD from the API and calls ours.
"""

from __future__ import annotations

import base64
import dataclasses
import ipaddress
import json
import random
from collections.abc import Iterator
from typing import Any

import lab
import pytest

NAMESPACE = "e2e-thin"
BINARY = "/opt/cni/bin/multus-thin"
KUBECONFIG = "/run/e2e-thin.kubeconfig"
MAC = "02:00:5e:10:00:01"
Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Node:
    """A node with thin Multus on it.

    Attributes:
        name: The node.
        config: What thin Multus' entrypoint would have written for the runtime.
    """

    name: str
    config: str

    def sh(self, script: str) -> str:
        """Run a shell script on it."""
        return lab.C2.node_exec(self.name, "sh", "-ec", script)

    def call(self, verb: str, pod: str) -> str:
        """Make the call that containerd makes for a pod, whose namespace is named like it."""
        uid = lab.C2.get("pod", pod, NAMESPACE)["metadata"]["uid"]
        names = f"K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={uid};K8S_POD_UID={uid}"
        environ = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": uid,
            "CNI_NETNS": f"/run/netns/{pod}",
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"IgnoreUnknown=1;{names}",
            "CNI_PATH": "/opt/cni/bin",
        }
        flags = [f"-e{name}={value}" for name, value in environ.items()]
        return lab.run("docker", "exec", "-i", *flags, self.name, BINARY, stdin=self.config)

    def interfaces(self, pod: str) -> dict[str, Result]:
        """Return what is in the pod's namespace but the loopback, each with its IPv4 addresses."""
        shown: list[Result] = json.loads(self.sh(f"ip netns exec {pod} ip -j address"))
        for link in shown:
            link["addresses"] = [one["local"] for one in link["addr_info"] if one["family"] == "inet"]
        return {link["ifname"]: link for link in shown if link["ifname"] != "lo"}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    name = lab.C2.nodes()[0]
    lab.C2.delete("namespace", NAMESPACE)
    lab.C2.apply(lab.make_namespace(NAMESPACE))
    lab.C2.apply(lab.make_deployment("neighbour", NAMESPACE))
    (thick,) = lab.C2.list("pods", "kube-system", selector="app=multus")
    inside = ("exec", thick["metadata"]["name"], "--", "cp", "/usr/src/multus-cni/bin/multus", BINARY)
    lab.C2.kubectl("-n", "kube-system", *inside)
    lab.run("docker", "exec", "-i", name, "sh", "-c", f"umask 077; cat >{KUBECONFIG}", stdin=make_kubeconfig())
    delegate = json.loads(
        lab.C2.node_exec(name, "sh", "-c", "cat $(ls /etc/cni/net.d/*.conf* | grep -v multus | head -1)")
    )
    config = {
        "cniVersion": "0.3.1",
        "name": "multus-cni-network",
        "type": "multus",
        "capabilities": {"portMappings": True},
        "kubeconfig": KUBECONFIG,
        "delegates": [delegate],
    }
    node = Node(name, json.dumps(config))
    yield node
    node.sh(f"rm -f {BINARY} {KUBECONFIG}")
    lab.C2.delete("namespace", NAMESPACE, wait=False)


def make_kubeconfig() -> str:
    """Make what thin Multus' entrypoint makes of its service account."""
    token = lab.C2.kubectl("-n", "kube-system", "create", "token", "multus", "--duration=10m").strip()
    authority = lab.C2.get("configmap", "kube-root-ca.crt", "kube-system")["data"]["ca.crt"]
    server = f"https://{lab.C2.get('service', 'kubernetes', 'default')['spec']['clusterIP']}:443"
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(authority.encode()).decode()}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": cluster}],
            "users": [{"name": "multus", "user": {"token": token}}],
            "contexts": [{"name": "multus", "context": {"cluster": "local", "user": "multus"}}],
            "current-context": "multus",
        }
    )


def make_pod(name: str, networks: str) -> dict[str, Any]:
    """Make a pod that is there and never starts: the test is its container runtime."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": {lab.NETWORKS: networks}},
        "spec": {
            "schedulingGates": [{"name": "example.com/never"}],
            "containers": [{"name": "main", "image": lab.TOOLS, "imagePullPolicy": "Never"}],
        },
    }


def published(pod: str) -> list[Result]:
    """Return what cnf says that it wired for a pod."""
    found: list[Result] = [one for item in lab.C2.list("nodeattachments", lab.SYSTEM) for one in item["attachments"]]
    return [one for one in found if (one["podNamespace"], one["podName"]) == (NAMESPACE, pod)]


@pytest.fixture
def sandbox(node: Node, request: pytest.FixtureRequest) -> Iterator[str]:
    """A network namespace for the pod of that name, with the annotation that the test gives."""
    name, ask = request.param
    lab.C2.apply(make_pod(name, ask()))
    node.sh(f"ip netns delete {name} 2>/dev/null || true; ip netns add {name}")
    yield name
    node.call("DEL", name)
    node.sh(f"ip netns delete {name}")


@pytest.mark.parametrize("sandbox", [("e2e-thin-plain", lambda: "default/fleetboard")], indirect=True)
def test_a_pod_is_attached_reaches_the_fleet_and_is_detached_again(node: Node, sandbox: str) -> None:
    result = json.loads(node.call("ADD", sandbox))
    assert [link["name"] for link in result["interfaces"] if link.get("sandbox")] == ["eth0"], "the primary network's"
    (address,) = node.interfaces(sandbox)["net1"]["addresses"]
    status = json.loads(
        lab.C2.get("pod", sandbox, NAMESPACE)["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"]
    )
    assert [(one["name"], one.get("interface"), one["ips"]) for one in status][1:] == [
        ("default/fleetboard", "net1", [address])
    ]
    lab.eventually(lambda: published(sandbox), within_s=60)
    (neighbour,) = lab.C2.wait_pods(NAMESPACE, "neighbour", 1)
    neighbour.exec("ping", "-c1", "-w30", "-i0.2", address, timeout_s=60)
    node.call("DEL", sandbox)
    assert not node.interfaces(sandbox)
    lab.eventually(lambda: not published(sandbox), within_s=60)
    node.call("DEL", sandbox)


def free_address() -> str:
    """Return one of the last addresses of the node's last block: they come last in turn, and rest 60 s after use."""
    (fleet_node,) = lab.C2.list("fleetnodes", lab.SYSTEM)
    return str(ipaddress.ip_network(fleet_node["spec"]["blocks"][-1])[-2 - random.randrange(20)])


def ask_for_everything() -> str:
    asked = {"interface": "fleet9", "ips": [free_address()], "mac": MAC}
    return json.dumps([{"name": "fleetboard", "namespace": "default"} | asked])


@pytest.mark.parametrize("sandbox", [("e2e-thin-asking", ask_for_everything)], indirect=True)
def test_an_asked_address_mac_and_name_are_given(node: Node, sandbox: str) -> None:
    # As the runtime does it: pods before this test may have had the address within the last minute.
    lab.eventually(lambda: node.call("ADD", sandbox), within_s=90, every_s=5)
    (asked,) = json.loads(lab.C2.get("pod", sandbox, NAMESPACE)["metadata"]["annotations"][lab.NETWORKS])
    link = node.interfaces(sandbox)["fleet9"]
    assert (link["address"], link["addresses"]) == (asked["mac"], asked["ips"])
