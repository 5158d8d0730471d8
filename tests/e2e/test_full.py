"""A node fills with pods and empties again: none waits in vain for an address, no two get one, all come back.

``FLEETBOARD_PODS`` says with how many: 250 on one node is what is promised. They start in waves: of 240 at once Multus'
daemon dies, again and again, by its own limit of 50 MiB, and at its limit of a tenth of a core a pod takes a second.
So where they are fewer than a block, half of them take addresses of the block first, by the executable alone: a
namespace of the node's own and a call takes it 20 ms.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterator

import lab
import pytest

NAMESPACE = "e2e-full"
PODS = int(os.environ.get("FLEETBOARD_PODS", "24"))
BLOCK = 64
WAVE = 8
WAVE_S, GONE_S = 120.0, 600.0
CALL = """
for number in $(seq {count}); do
  name=e2e-full-$number
  if [ {verb} = ADD ]; then ip netns add $name; fi
  echo '{{"cniVersion":"1.0.0","name":"fleetboard","type":"fleetboard"}}' | env -i CNI_COMMAND={verb} \\
    CNI_CONTAINERID=$name CNI_NETNS=/run/netns/$name CNI_IFNAME=net1 CNI_PATH=/opt/cni/bin \\
    "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=direct-$number;K8S_POD_UID=$name" \\
    /opt/cni/bin/fleetboard
  if [ {verb} = DEL ]; then ip netns delete $name || true; fi
done
"""
CALLS = re.compile(r'^fleetboard_cni_calls_total\{code="(\d+)",verb="ADD"\} (\S+)$', re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Node:
    """A node as cnf and the API show it."""

    name: str

    def attachments(self) -> dict[str, str]:
        """Return the fleet address of each attached pod, by namespace and name."""
        found = lab.C1.get("nodeattachments", self.name, lab.SYSTEM).get("attachments", [])
        return {f"{one['podNamespace']}/{one['podName']}": one["addresses"][0] for one in found}

    def living(self) -> set[str]:
        """Return its pods that nobody is deleting, by namespace and name."""
        found = (one["metadata"] for one in lab.C1.list("pods") if one["spec"].get("nodeName") == self.name)
        return {f"{meta['namespace']}/{meta['name']}" for meta in found if "deletionTimestamp" not in meta}

    def blocks(self) -> list[str]:
        """Return the blocks the leader has given."""
        given: list[str] = lab.C1.get("fleetnode", self.name, lab.SYSTEM)["spec"]["blocks"]
        return given

    def adds(self) -> dict[int, int]:
        """Return how many ADDs cnf has answered, by error code, 0 for none."""
        pod = lab.C1.cnf_pod(self.name)
        shown = lab.C1.kubectl("get", "--raw", f"/api/v1/namespaces/{lab.SYSTEM}/pods/{pod}:9464/proxy/metrics")
        return {int(code): int(float(count)) for code, count in CALLS.findall(shown)}

    @contextlib.contextmanager
    def attaching(self, count: int) -> Iterator[None]:
        """Attach ``count`` namespaces of no pod through the executable, and detach them at the end."""
        try:
            self._call("ADD", count)
            yield
        finally:
            self._call("DEL", count)

    def _call(self, verb: str, count: int) -> None:
        script = CALL.format(verb=verb, count=count, namespace=NAMESPACE)
        lab.C1.node_exec(self.name, "sh", "-ec", script, timeout_s=180)


@pytest.mark.timeout(300 + 5 * PODS)
def test_a_node_that_fills_gets_its_blocks_without_an_add_failing(namespaces: Callable[[str], str]) -> None:
    namespaces(NAMESPACE)
    node = Node(lab.C1.nodes()[-1])
    before, blocks, adds = node.attachments(), node.blocks(), node.adds()
    filling = lab.make_deployment("full", NAMESPACE, replicas=0, node=node.name)
    (container,) = filling["spec"]["template"]["spec"]["containers"]
    del container["resources"]  # they sleep: how many fit is not the question
    direct = max(0, BLOCK - PODS // 2 - len(before.keys() & node.living()))  # others may end meanwhile
    with node.attaching(direct):
        started = time.monotonic()
        lab.C1.apply(filling)

        for count in range(WAVE, PODS + WAVE, WAVE):
            fill(min(count, PODS))
        lab.record(f"{PODS} attached pods on one node started", time.monotonic() - started)
        held = lab.eventually(lambda: attached(node, PODS + direct), within_s=60)
        assert len(set(held.values())) == len(held), "two pods have one address"
        assert len(held) > BLOCK, "they fit into one block"
        assert node.blocks()[: len(blocks)] == blocks
        assert len(node.blocks()) >= -(-len(held) // BLOCK)
        after = node.adds()
        failed = {code: after[code] - adds.get(code, 0) for code in after if code and after[code] != adds.get(code, 0)}
        assert not failed, f"ADDs failed, by code: {failed}"
        assert after[0] - adds.get(0, 0) >= PODS + direct
        emitted = lab.C1.list("events", NAMESPACE)
        refused = [
            one["message"] for one in emitted if "fleetboard" in one.get("message", "") and one["type"] == "Warning"
        ]
        assert not refused, refused[:3]

        emptied = time.monotonic()
        lab.C1.delete("deployment", "full", NAMESPACE, wait=False)
    lab.eventually(lambda: not attached(node, 0), within_s=GONE_S, every_s=2)
    lab.record(f"{PODS} attached pods on one node gone", time.monotonic() - emptied)
    left = node.attachments()
    living = node.living()
    # Others' namespaces may be on their way out still: theirs is not the question.
    kept = {name: address for name, address in before.items() if name in living}
    assert {name: left.get(name) for name in kept} == kept


def fill(count: int) -> None:
    """Scale the app and wait until ``count`` pods are ready."""
    lab.C1.kubectl("-n", NAMESPACE, "scale", "deployment", "full", f"--replicas={count}")

    def enough() -> bool:
        status = lab.C1.get("deployment", "full", NAMESPACE)["status"]
        return int(status.get("readyReplicas", 0)) == count

    lab.eventually(enough, within_s=WAVE_S, every_s=0.5)


def attached(node: Node, count: int) -> dict[str, str]:
    """Return the addresses of all pods of the node once ``count`` are the test's; with 0, those of the test's pods."""
    found = node.attachments()
    ours = {name: address for name, address in found.items() if name.startswith(f"{NAMESPACE}/")}
    if not count:
        return ours
    return found if len(ours) == count else {}
