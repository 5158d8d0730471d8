"""A node fills to 250 pods and empties again: its blocks come from a leader, over an API, as they are needed.

Real: the kernel, the CNI service, leader and reports, and an API server over sockets. Only who leads is given.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import json
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_api import FakeApi
from quick_nets import QuickNet, QuickNets

from cnf.agent import caches
from cnf.agent.wakes import AgentSource
from cnf.attach import frames
from cnf.attach.node_network.network import NodeNetwork
from cnf.attach.service import CniService
from cnf.attach.settings import CniHooks, CniSettings
from cnf.controllers import status
from cnf.controllers.blocks import controller as block_controller
from cnf.netlink.namespace import NetworkNamespace
from fleetboard.kube import controller, events
from fleetboard.model import addresses, names

pytestmark = pytest.mark.netns

NODE, SPACE, ALL = "n0", names.NAMESPACE, "all"
CLUSTER = "10.112.4.0/24"
FLEET = (ipaddress.ip_network("10.112.0.0/12"),)
CONFIG = b'{"cniVersion":"1.0.0","name":"fleetboard","type":"fleetboard"}'


@dataclasses.dataclass
class ShiftedClock:
    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class Node:
    """A node with the part of cnf that allocates addresses and blocks. It is the leader, too."""

    def __init__(self, api: FakeApi, nets: QuickNets, folder: pathlib.Path) -> None:
        self.api, self.clock = api, ShiftedClock()
        self.node_netns = nets.make("node")
        self.handle = NetworkNamespace.open(self.node_netns.path)
        client = api.client()
        self.known = caches.Caches(
            client,
            SPACE,
            node=NODE,
            on_change=self._changed,
        )
        self.cni = CniService(
            CniSettings(state_dir=folder / "state", netns_dir=nets.folder, node=NODE, address_timeout_s=60),
            node_netns=self.handle,
            hooks=CniHooks(
                on_change=lambda: self.publish.enqueue(ALL),
                why_no_block=lambda: block_controller.why_no_block(self.known, node=NODE, cluster="c1"),
            ),
            clock=self.clock,
        )
        granter = block_controller.BlockController(
            client,
            namespace=SPACE,
            cluster="c1",
            caches=self.known,
            leading=lambda: True,
            recorder=events.Recorder(client, "cnf"),
        )
        publisher = status.StatusController(
            client,
            namespace=SPACE,
            node=NODE,
            version="1",
            report=self._report,
            attachments=self.cni.attachments,
            fleet_node=lambda: self.known.node(NODE),
        )
        self.grant = controller.Controller(
            "blocks", granter.reconcile, wait_for=self.known.claims_synced, rest_factor=2
        )
        self.publish = controller.Controller("node", publisher.reconcile_node, wait_for=self.known.mesh_synced)
        self.steer = controller.Controller("steer", self._take_up, wait_for=self.known.mesh_synced)
        self.cni.restore()

    def run(self, stop: threading.Event) -> list[threading.Thread]:
        work = [*self.known.threads().values(), self.grant.run, self.publish.run, self.steer.run]
        threads = [threading.Thread(target=run, args=(stop,)) for run in work]
        for thread in threads:
            thread.start()
        self._mesh_changed()
        return threads

    def _changed(self, source: AgentSource, _key: str) -> None:
        if source is AgentSource.CLAIM:
            self.grant.enqueue(ALL)
        elif source in (AgentSource.MESH, AgentSource.STATUS_ONLY):
            self._mesh_changed()

    def _mesh_changed(self) -> None:
        for one in (self.grant, self.publish, self.steer):
            one.enqueue(ALL)

    def _take_up(self, _key: str) -> float:
        found = self.known.node(NODE)
        if found is not None and found.spec.blocks:
            shown = addresses.parse_networks(found.spec.blocks, field="blocks")
            returned = addresses.parse_networks(found.status.blocks_returned, field="blocksReturned")
            self.cni.set_network(NodeNetwork(shown[0].network_address, shown, FLEET, 1360, returned))
        return 10

    def _report(self) -> status.Report:
        usage, wanted, returned, held = status.read_addresses(self.cni)
        return status.Report("k", "", 1360, usage.used, usage.free, wanted, returned, held, None)

    def call(self, verb: str, container: str, net: QuickNet) -> frames.Response:
        env = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": "net1",
            "CNI_NETNS": str(net.path),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container};K8S_POD_UID=u-{container}",
        }
        with NetworkNamespace.open(net.path) as opened:
            return self.cni.calls.call(frames.Request(env, CONFIG, opened))

    @property
    def blocks(self) -> list[str]:
        shown: list[str] = self.api.objects["fleetnodes", SPACE, NODE].get("spec", {}).get("blocks", [])
        return shown

    def claims(self) -> dict[str, bool]:
        """Node blocks that are claimed, and whether they were returned."""
        return {claim["spec"]["cidr"]: "released" in claim["spec"] for claim in self.held("claims")}

    def held(self, kind: str) -> list[dict[str, Any]]:
        """What the API holds of a collection."""
        with self.api.changed:
            return [obj for (collection, _, _), obj in self.api.objects.items() if collection == kind]


@pytest.fixture
def node(quick: QuickNets, tmp_path: pathlib.Path) -> Iterator[Node]:
    with FakeApi() as api:
        api.put("nodes", NODE, "")
        grow(api, CLUSTER)
        made, stop = Node(api, quick, tmp_path), threading.Event()
        threads = made.run(stop)
        yield made
        stop.set()
        api.cut()
        for thread in threads:
            thread.join(30)
        made.cni.close()
        made.handle.close()


def grow(api: FakeApi, *blocks: str) -> None:
    """Let the hub allocate these blocks to the cluster."""
    api.put("peers", "c1", SPACE, spec={"cluster": "c1"}, status={"clusterCidrs": list(blocks)})


def address(response: frames.Response) -> str:
    assert response.code == 0, response.stdout
    return str(json.loads(response.stdout)["ips"][0]["address"]).partition("/")[0]


def test_250_pods_get_their_blocks_in_time_and_the_empty_ones_go_back(
    node: Node,
    quick: QuickNets,
    eventually: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pods = {f"c{number}": quick.make(f"p{number}") for number in range(257)}
    first, rest, late = list(pods)[:100], list(pods)[100:250], list(pods)[250:]
    took: list[float] = []

    def add(container: str) -> frames.Response:
        started = time.monotonic()
        response = node.call("ADD", container, pods[container])
        took.append(time.monotonic() - started)
        return response

    # The first ADDs find no block yet.
    with concurrent.futures.ThreadPoolExecutor(8) as callers:
        held = [address(response) for response in callers.map(add, first)]
    with concurrent.futures.ThreadPoolExecutor(32) as callers:
        held += [address(response) for response in callers.map(add, rest)]
    assert len(set(held)) == 250
    assert all(ipaddress.ip_address(one) in ipaddress.ip_network(CLUSTER) for one in held)
    assert len(node.blocks) == 4
    assert node.cni.usage().used == 250
    with capsys.disabled():
        print(f"\n250 ADDs, 8 and 32 at once: none failed, the slowest waited {max(took):.2f} s for its block")

    # The cluster's block is exhausted: five more fit, and the others learn why while the hub can still help.
    held += [address(add(container)) for container in late[:5]]
    node.cni.calls.address_timeout_s = 8
    refused = add(late[5])
    node.cni.calls.address_timeout_s = 60
    assert refused.code == 1
    answer = json.loads(refused.stdout)
    assert answer["code"] == 11
    assert f"the cluster's block {CLUSTER} is exhausted: nodes have 4 of 4 node blocks" in answer["msg"]
    eventually(lambda: node.held("events"))
    event = node.held("events")[0]
    assert (event["reason"], event["regarding"]["kind"]) == ("NoFreeBlock", "FleetNode")
    assert CLUSTER in event["note"]
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        waiting = callers.submit(add, late[5])
        time.sleep(0.2)
        grow(node.api, CLUSTER, "10.112.64.0/22")
        assert ipaddress.ip_address(address(waiting.result(90))) in ipaddress.ip_network("10.112.64.0/22")

    def delete(container: str) -> int:
        return node.call("DEL", container, pods[container]).code

    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(32) as callers:
        assert set(callers.map(delete, pods)) == {0}
    with capsys.disabled():
        print(f"257 DELs, 32 at once, in {time.monotonic() - started:.2f} s")
    assert (node.cni.usage().used, node.cni.usage().quarantined) == (0, 256)

    node.clock.ahead_s += 61
    node.cni.collect()
    assert len(node.blocks) == 5  # empty now, and not for long
    node.clock.ahead_s += 121
    node.cni.collect()
    eventually(lambda: node.blocks == ["10.112.4.0/26"])
    eventually(lambda: sorted(node.claims().values()) == [False, True, True, True, True])
    eventually(lambda: "blocksReturned" not in node.api.objects["fleetnodes", SPACE, NODE]["status"])
    assert node.cni.usage().free == 63
    assert address(add("c0")) == "10.112.4.1" or node.cni.usage().used == 1
