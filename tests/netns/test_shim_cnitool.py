"""The real libcni, by its own ``cnitool``, takes the packed executable through every verb at version 1.1.0.

Our own tests call as we read the specification; this one as containerd, CRI-O and Multus do.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess

import packed_shim
import pytest
import shim_node
from netlab import Net
from shim_node import Answer, Node

pytestmark = pytest.mark.netns


@dataclasses.dataclass
class Runtime:
    """cnitool with a configuration folder and a result cache of its own."""

    node: Node
    folder: pathlib.Path
    tool: str

    def call(self, verb: str, pod: Net, **env: str) -> Answer:
        cache = self.folder / "cache"
        for made in (cache, pathlib.Path("/var/lib/cni")):
            made.mkdir(parents=True, exist_ok=True)
        environ = {"NETCONFPATH": str(self.folder), "CNI_PATH": str(self.node.shim.parent), "CNI_IFNAME": "net1", **env}
        program = [self.tool, verb, "fleet", str(pod.path)]
        return self.node.execute(environ, prepare=f"mount --bind {cache} /var/lib/cni", program=program)


@pytest.fixture
def runtime(node: Node, tmp_path: pathlib.Path) -> Runtime:
    made = subprocess.run(
        ["hack/lab", "tool", "cnitool"], cwd=packed_shim.ROOT, capture_output=True, text=True, timeout=280, check=True
    )
    folder = tmp_path / "conf"
    folder.mkdir()
    plugin = {"type": "fleetboard", "capabilities": {"ips": True, "mac": True}}
    conflist = {"cniVersion": "1.1.0", "name": "fleet", "plugins": [plugin]}
    (folder / "10-fleet.conflist").write_text(json.dumps(conflist))
    return Runtime(node, folder, made.stdout.strip())


def succeeds(answer: Answer) -> bool:
    assert (answer.status, answer.stderr) == (0, b"")
    return True


def test_a_runtime_takes_a_pod_through_its_life(runtime: Runtime) -> None:
    pod = runtime.node.nets.make()
    assert succeeds(runtime.call("status", pod))
    added = runtime.call("add", pod)
    assert succeeds(added)
    result = added.content
    assert result["cniVersion"] == "1.1.0"
    assert result["interfaces"][0]["mtu"] == shim_node.NETWORK.mtu
    assert result["routes"] == [{"dst": "10.112.0.0/12", "gw": "10.112.4.0"}]
    assert pod.answers_ping("10.112.4.0")
    assert succeeds(runtime.call("check", pod))
    pod.run("ip", "addr", "flush", "dev", "net1")
    broken = runtime.call("check", pod)
    assert broken.status
    assert b"lacks address 10.112.4.1" in broken.stderr
    assert succeeds(runtime.call("del", pod))
    assert succeeds(runtime.call("del", pod))
    assert "net1" not in pod.run("ip", "link")


def test_a_runtime_hands_wishes_on_and_reads_refusals(runtime: Runtime) -> None:
    pod = runtime.node.nets.make()
    wishes = json.dumps({"ips": ["10.112.4.20/12"], "mac": "0a:58:0a:70:04:14"})
    result = runtime.call("add", pod, CAP_ARGS=wishes, CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAME=one").content
    assert (result["ips"][0]["address"], result["interfaces"][0]["mac"]) == ("10.112.4.20/32", "0a:58:0a:70:04:14")
    refused = runtime.call("add", runtime.node.nets.make(), CAP_ARGS=wishes)
    assert refused.status
    assert b"requested address 10.112.4.20 is in use" in refused.stderr


def test_a_runtime_that_names_nothing_collects_what_it_has_kept_alone(runtime: Runtime) -> None:
    """cnitool makes no list: libcni sends DEL for what it has kept a result of, and GC with null: not "none"."""
    kept, unkept = runtime.node.nets.make(), runtime.node.nets.make()
    assert succeeds(runtime.call("add", kept))
    assert runtime.node.call("ADD", "unkept", unkept, config={"name": "fleet"}).status == 0
    runtime.node.nets.remove(unkept)
    assert succeeds(runtime.call("gc", kept))
    assert "net1" not in kept.run("ip", "link")
    assert [attachment.pod_name for attachment in runtime.node.cni.attachments()] == ["unkept"]
