"""cnf on the real kernel: pods are namespaces, calls go to ``CallHandler.call`` as the server hands them over."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import itertools
import json
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import netlab
import pings
import pytest
from netlab import Net, Nets

from cnf.attach import frames, identity
from cnf.attach.node_network.network import NodeNetwork
from cnf.attach.plumber import Plumber
from cnf.attach.service import CniService
from cnf.attach.settings import CniHooks, CniSettings
from cnf.netlink import errors, links
from cnf.netlink.namespace import NetworkNamespace

pytestmark = pytest.mark.netns

NETWORK = NodeNetwork(
    node_address=ipaddress.ip_address("10.112.4.0"),
    blocks=(ipaddress.ip_network("10.112.4.0/26"),),
    fleet=(ipaddress.ip_network("10.112.0.0/12"),),
    mtu=1360,
)
CONFIG = {"cniVersion": "1.0.0", "name": "fleetboard", "type": "fleetboard"}


@dataclasses.dataclass
class Node:
    """A node: cnf's namespace, its state folder, and the process that serves."""

    nets: Nets
    state: pathlib.Path
    node_netns: Net
    cni: CniService
    node_handle: NetworkNamespace
    changes: list[int] = dataclasses.field(default_factory=list)

    def call(self, verb: str, pod: Net | None, container: str, **over: Any) -> frames.Response:
        """Make one CNI call for ``container``."""
        config = {**CONFIG, **over.pop("config", {})}
        env = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": over.pop("ifname", "net1"),
            "CNI_NETNS": str(pod.path) if pod else "",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container};K8S_POD_UID=u-{container}",
        }
        namespace = NetworkNamespace.open(pod.path) if pod and pod.path.exists() else None
        try:
            request = frames.Request(env, json.dumps(config).encode(), namespace, **over)
            return self.cni.calls.call(request)
        finally:
            if namespace:
                namespace.close()

    def add(self, pod: Net, container: str, **over: Any) -> str:
        """ADD; return the address."""
        response = self.call("ADD", pod, container, **over)
        assert response.code == 0, response.stdout
        return str(json.loads(response.stdout)["ips"][0]["address"]).partition("/")[0]

    def restart(self, *, node_netns: Net | None = None, boot_id: str | None = None) -> Any:
        """End the process (as a kill does: nothing is torn down) and start another, maybe in a new namespace."""
        self.cni.close()
        self.node_handle.close()
        self.node_netns = node_netns or self.node_netns
        self.node_handle = NetworkNamespace.open(self.node_netns.path)
        self.cni = make_service(self.state, self.node_handle, boot_id=boot_id)
        return self.cni.restore()


def make_service(state: pathlib.Path, node_netns: NetworkNamespace, *, boot_id: str | None = None) -> CniService:
    settings = CniSettings(state_dir=state, netns_dir=netlab.FOLDER, address_timeout_s=0.2)
    if boot_id is not None:
        settings = dataclasses.replace(settings, boot_id=boot_id)
    return CniService(settings, node_netns=node_netns, hooks=CniHooks(on_change=lambda: None))


@pytest.fixture
def node(nets: Nets, tmp_path: pathlib.Path) -> Iterator[Node]:
    node_netns = nets.make("node")
    handle = NetworkNamespace.open(node_netns.path)
    cni = make_service(tmp_path / "state", handle)
    cni.restore()
    cni.set_network(NETWORK)
    made = Node(nets, tmp_path / "state", node_netns, cni, handle)
    yield made
    made.cni.close()
    made.node_handle.close()


def refusal(response: frames.Response) -> tuple[int, str]:
    assert response.code == 1
    content = json.loads(response.stdout)
    return content["code"], content["msg"]


def test_a_pod_reaches_the_node_and_its_neighbour(node: Node) -> None:
    one, two = node.nets.make(), node.nets.make()
    first, second = node.add(one, "one"), node.add(two, "two")
    assert (first, second) == ("10.112.4.1", "10.112.4.2")
    assert one.answers_ping("10.112.4.0")
    assert one.answers_ping(second)
    assert two.answers_ping(first, size=1332, fragment=False)
    assert not two.answers_ping(first, size=1333, fragment=False)
    assert node.node_netns.answers_ping(first)
    assert "10.112.4.0" in node.node_netns.run("ip", "route", "get", first)


def test_the_result_lists_the_pods_interface_alone(node: Node) -> None:
    pod = node.nets.make()
    result = json.loads(node.call("ADD", pod, "one").stdout)
    assert result == {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "net1", "mac": identity.pod_mac("one", "net1"), "sandbox": str(pod.path)}],
        "ips": [{"interface": 0, "address": "10.112.4.1/32", "gateway": "10.112.4.0"}],
        "routes": [{"dst": "10.112.0.0/12", "gw": "10.112.4.0"}],
        "dns": {},
    }


def test_delete_leaves_nothing_on_either_end(node: Node) -> None:
    pod = node.nets.make()
    node.add(pod, "one")
    assert node.call("DEL", pod, "one").code == 0
    assert "net1" not in pod.run("ip", "link")
    assert pod.run("ip", "route", "show", "table", "main") == ""
    assert "fv" not in node.node_netns.run("ip", "-br", "link")
    assert node.cni.attachments() == []
    assert node.call("DEL", pod, "one").code == 0


def test_delete_frees_the_address_of_a_namespace_that_is_gone(node: Node) -> None:
    pod = node.nets.make()
    node.add(pod, "one")
    node.nets.remove(pod)
    assert node.call("DEL", None, "one").code == 0
    assert node.cni.usage().used == 0
    assert node.cni.usage().quarantined == 1


def test_nothing_leaves_by_another_interface_while_the_fleets_is_missing(node: Node) -> None:
    pod = node.nets.make()
    pod.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
    pod.run("ip", "addr", "add", "192.0.2.2/24", "dev", "eth0")
    pod.run("ip", "link", "set", "eth0", "up")
    pod.run("ip", "link", "set", "far", "up")
    pod.run("ip", "route", "add", "default", "via", "192.0.2.1")
    node.add(pod, "one")
    assert "dev net1" in pod.run("ip", "route", "get", "10.113.1.1")
    pod.run("ip", "link", "del", "net1")
    assert "No route to host" in pod.run("ip", "route", "get", "10.113.1.1", check=False)


def test_a_second_add_is_refused_and_changes_nothing(node: Node) -> None:
    pod = node.nets.make()
    address = node.add(pod, "one")
    assert refusal(node.call("ADD", pod, "one"))[0] == 100
    assert refusal(node.call("ADD", pod, "one", ifname="net2"))[0] == 101
    assert refusal(node.call("ADD", pod, "two"))[0] == 101
    assert [a.addresses for a in node.cni.attachments()] == [[address]]
    assert pod.answers_ping("10.112.4.0")


def test_a_taken_name_is_refused_and_leaves_nothing(node: Node) -> None:
    pod = node.nets.make()
    pod.run("ip", "link", "add", "net1", "type", "veth")
    assert refusal(node.call("ADD", pod, "one"))[0] == 100
    assert "fv" not in node.node_netns.run("ip", "-br", "link")
    assert "unreachable" not in pod.run("ip", "route")
    assert (node.cni.usage().used, node.cni.usage().free) == (0, 63)


def test_a_taken_index_is_no_obstacle(node: Node) -> None:
    pod = node.nets.make()
    pod.run("ip", "link", "add", "other", "index", str(identity.POD_INDEX), "type", "veth")
    node.add(pod, "one")
    assert pod.answers_ping("10.112.4.0")
    taken = node.nets.make()
    index = identity.near_index(ipaddress.ip_address("10.112.4.2"))
    node.node_netns.run("ip", "link", "add", "other", "index", str(index), "type", "veth")
    node.add(taken, "two")
    assert taken.answers_ping("10.112.4.0")
    assert f"{identity.POD_INDEX}: net1" in taken.run("ip", "link")


def test_a_caller_that_hung_up_leaves_nothing(node: Node) -> None:
    pod = node.nets.make()
    answers = iter([False, True])
    response = node.call("ADD", pod, "one", cancelled=lambda: next(answers))
    assert refusal(response)[0] == 103
    assert "net1" not in pod.run("ip", "link")
    assert pod.run("ip", "route") == ""
    assert node.cni.usage().used == 0


def test_an_answer_that_was_not_delivered_is_undone(node: Node) -> None:
    pod = node.nets.make()
    response = node.call("ADD", pod, "one")
    response.undo()
    assert "net1" not in pod.run("ip", "link")
    assert node.cni.usage().used == 0


def test_requested_address_and_mac_are_given_or_refused(node: Node) -> None:
    pod, other = node.nets.make(), node.nets.make()
    wish = {"runtimeConfig": {"ips": ["10.112.4.40/26"], "mac": "0a:58:00:00:00:07"}}
    assert node.add(pod, "one", config=wish) == "10.112.4.40"
    assert "0a:58:00:00:00:07" in pod.run("ip", "link", "show", "net1")
    assert pod.answers_ping("10.112.4.0")
    assert refusal(node.call("ADD", other, "two", config=wish))[0] == 11
    foreign = {"runtimeConfig": {"ips": ["10.112.9.9"]}}
    assert refusal(node.call("ADD", other, "two", config=foreign))[0] == 7
    own = {"runtimeConfig": {"ips": ["10.112.4.0"]}}
    assert refusal(node.call("ADD", other, "two", config=own))[0] == 7


def test_check_agrees_with_add_and_sees_what_was_changed(node: Node) -> None:
    pod = node.nets.make()
    result = json.loads(node.call("ADD", pod, "one").stdout)
    checked = {"prevResult": result}
    assert node.call("CHECK", pod, "one", config=checked).code == 0
    assert refusal(node.call("CHECK", pod, "one"))[0] == 7
    pod.run("ip", "route", "del", "10.112.0.0/12", "dev", "net1")
    assert "route" in refusal(node.call("CHECK", pod, "one", config=checked))[1]
    pod.run("ip", "addr", "flush", "dev", "net1")
    assert "address" in refusal(node.call("CHECK", pod, "one", config=checked))[1]
    pod.run("ip", "link", "del", "net1")
    assert "missing" in refusal(node.call("CHECK", pod, "one", config=checked))[1]


def test_a_node_without_addresses_refuses_with_the_reason(nets: Nets, tmp_path: pathlib.Path) -> None:
    pod = nets.make()
    with NetworkNamespace.open(nets.make("node").path) as node_netns:
        cni = make_service(tmp_path, node_netns)
        cni.restore()
        node = Node(nets, tmp_path, Net("none"), cni, node_netns)
        code, message = refusal(node.call("ADD", pod, "one"))
        assert code == 11
        assert "no fleet addresses yet" in message
        cni.close()


def test_a_full_block_is_named_and_a_second_one_is_used_without_a_failure(node: Node) -> None:
    small = dataclasses.replace(NETWORK, blocks=(ipaddress.ip_network("10.112.4.0/31"),))
    node.cni.set_network(small)
    one, two = node.nets.make(), node.nets.make()
    node.add(one, "one")
    code, message = refusal(node.call("ADD", two, "two"))
    assert code == 11
    assert "10.112.4.0/31" in message
    node.cni.calls.address_timeout_s = 10
    with concurrent.futures.ThreadPoolExecutor(1) as caller:
        waiting = caller.submit(node.add, two, "two")
        more = (*small.blocks, ipaddress.ip_network("10.112.5.64/26"))
        node.cni.set_network(dataclasses.replace(small, blocks=more))
        assert waiting.result(timeout=20) == "10.112.5.64"
    assert one.answers_ping("10.112.5.64")


def test_an_exhausted_node_releases_the_addresses_of_the_dead(
    node: Node, eventually: Callable[[Callable[[], object]], None]
) -> None:
    pod = node.nets.make()
    node.add(pod, "one")
    node.nets.remove(pod)
    eventually(lambda: node.cni.collect() == 1)
    assert node.cni.attachments() == []


class Restless(socket.socket):
    """A netlink socket that lets something happen before each answer."""

    happens: Callable[[], object] = staticmethod(lambda: None)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        Restless.happens()
        return super().recv(size, flags)


@pytest.fixture
def add_interfaces(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Return a function that, from then on, creates an interface before each answer to cnf: no long dump is whole."""
    numbers = itertools.count()
    with node.node_handle.connect() as other:

        def add() -> None:
            near, far = f"busy{next(numbers)}", f"busy{next(numbers)}"
            ends = links.VethEnd(near, "02:00:00:00:00:01", 1360), links.VethEnd(far, "02:00:00:00:00:02", 1360)
            other.send([links.create_veth(*ends, namespace=node.node_handle.fileno())])

        opens = node.node_handle.open_socket
        monkeypatch.setattr(node.node_handle, "open_socket", lambda: Restless(fileno=opens().detach()))
        yield lambda: monkeypatch.setattr(Restless, "happens", staticmethod(add))
        monkeypatch.undo()


def test_interfaces_that_come_meanwhile_keep_no_add_from_its_answer(
    node: Node, add_interfaces: Callable[[], None], eventually: Callable[[Callable[[], object]], None]
) -> None:
    pods = [node.nets.make() for _ in range(65)]
    with concurrent.futures.ThreadPoolExecutor(8) as callers:
        held = list(callers.map(lambda number: node.add(pods[number], f"c{number}"), range(63)))
    assert len(set(held)) == 63
    add_interfaces()
    with (
        node.node_handle.connect() as kernel,
        pytest.raises(errors.UnstableError, match="during five dumps in a row"),
    ):
        kernel.ask(links.list_all())
    code, message = refusal(node.call("ADD", pods[63], "late"))
    assert (code, "10.112.4.0/26" in message) == (11, True), message
    assert node.cni.collect() == 0
    node.nets.remove(pods[0])
    eventually(lambda: node.cni.collect() == 1)
    assert node.cni.usage().used == 62


def test_a_kernel_that_lists_nothing_is_no_reason_to_refuse_an_add(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_plumber: Plumber) -> None:
        raise errors.SilentKernelError("no answer from the kernel: timed out")

    node.cni.set_network(dataclasses.replace(NETWORK, blocks=(ipaddress.ip_network("10.112.4.0/31"),)))
    one, two = node.nets.make(), node.nets.make()
    node.add(one, "one")
    monkeypatch.setattr(Plumber, "list_pairs", silent)
    node.cni.calls.address_timeout_s = 10
    with concurrent.futures.ThreadPoolExecutor(1) as caller:
        waiting = caller.submit(node.add, two, "two")
        assert not concurrent.futures.wait([waiting], timeout=0.3).done
        node.cni.set_network(NETWORK)
        assert waiting.result(timeout=20) not in ("10.112.4.0", "10.112.4.1")


def test_a_pair_that_the_list_lacks_is_looked_up_before_it_is_called_missing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = node.nets.make(), node.nets.make()
    node.add(one, "one")
    held = node.add(two, "two")
    monkeypatch.setattr(Plumber, "list_pairs", lambda _plumber: {})
    before = one.run("cat", "/sys/class/net/net1/iflink")
    assert [node.cni.collect() for _ in range(3)] == [0, 0, 0]
    assert one.run("cat", "/sys/class/net/net1/iflink") == before
    assert one.answers_ping(held)


def test_a_restart_adopts_what_stands_and_loses_no_packet(
    node: Node, eventually: Callable[[Callable[[], object]], None]
) -> None:
    pods = [node.nets.make() for _ in range(5)]
    held = [node.add(pod, f"c{i}") for i, pod in enumerate(pods)]
    assert pods[0].answers_ping(held[1])
    printed: list[str] = []

    def seen() -> dict[int, float]:
        return pings.answers("".join(printed))

    with pods[0].start("ping", "-D", "-i", "0.005", held[1]) as ping:
        assert ping.stdout is not None
        reading = threading.Thread(target=printed.extend, args=(ping.stdout,))
        reading.start()
        try:
            eventually(seen)
            summary = node.restart()
            ended = time.time()
            eventually(lambda: max(seen().values()) > ended)
        finally:
            ping.send_signal(signal.SIGINT)
            reading.join(60)
    assert (summary.adopted, summary.recreated, summary.freed) == (5, 0, 0)
    assert not pings.lost(seen())
    assert sorted(a.addresses[0] for a in node.cni.attachments()) == sorted(held)
    assert node.cni.network() == NETWORK
    assert node.add(node.nets.make(), "more") not in held


def test_a_new_namespace_of_cnf_gets_the_same_pairs(node: Node) -> None:
    pods = [node.nets.make() for _ in range(6)]
    held = [node.add(pod, f"c{i}") for i, pod in enumerate(pods)]
    before = [pod.run("ip", "-o", "link", "show", "net1").split("\\")[0].split("@")[0] for pod in pods]
    macs = [pod.run("cat", "/sys/class/net/net1/address") for pod in pods]
    old = node.node_netns
    summary = node.restart(node_netns=node.nets.make("node2"))  # the old one still lives, as a pod that is ending
    assert summary.recreated == 6
    assert [pod.run("ip", "-o", "link", "show", "net1").split("\\")[0].split("@")[0] for pod in pods] == before
    assert [pod.run("cat", "/sys/class/net/net1/address") for pod in pods] == macs
    assert pods[0].answers_ping(held[1])
    node.nets.remove(old)
    assert pods[0].answers_ping(held[5])


def test_a_new_namespace_after_the_old_one_died_gets_them_too(
    node: Node, eventually: Callable[[Callable[[], object]], None]
) -> None:
    pod = node.nets.make()
    address = node.add(pod, "one")
    old, new = node.node_netns, node.nets.make("node2")
    node.cni.close()
    node.node_handle.close()
    node.nets.remove(old)
    eventually(lambda: "net1" not in pod.run("ip", "link"))
    node.node_handle = NetworkNamespace.open(new.path)
    summary = node.restart(node_netns=new)
    assert summary.recreated == 1
    assert f"{identity.POD_INDEX}: net1" in pod.run("ip", "link")
    assert pod.answers_ping("10.112.4.0")
    assert node.cni.attachments()[0].addresses == [address]


def test_a_dead_pod_is_freed_in_the_second_pass(node: Node, eventually: Callable[[Callable[[], object]], None]) -> None:
    dead, living = node.nets.make(), node.nets.make()
    node.add(dead, "dead")
    node.add(living, "living")
    node.nets.remove(dead)
    summary = node.restart(node_netns=node.nets.make("node2"))
    assert (summary.recreated, summary.suspected, summary.freed) == (1, 1, 0)
    eventually(lambda: node.cni.collect() == 1)
    assert [a.pod_name for a in node.cni.attachments()] == ["living"]


def test_another_boot_frees_everything_at_once(node: Node) -> None:
    node.add(node.nets.make(), "one")
    node.add(node.nets.make(), "two")
    summary = node.restart(node_netns=node.nets.make("node2"), boot_id="another")
    assert summary.freed == 2
    assert node.cni.attachments() == []


def test_a_lost_journal_is_rebuilt_from_the_kernel(node: Node) -> None:
    pod = node.nets.make()
    address = node.add(pod, "one")
    (node.state / "journal").unlink()
    summary = node.restart()
    assert summary.recovered == 1
    attachment = node.cni.attachments()[0]
    assert (attachment.addresses, attachment.pod_uid, attachment.interface) == ([address], "u-one", "net1")
    assert node.add(node.nets.make(), "two") != address
    assert node.restart(node_netns=node.nets.make("node2")).recreated == 2


def test_an_add_that_never_ended_is_rolled_back_at_the_next_start(node: Node) -> None:
    pod = node.nets.make()
    node.add(pod, "one")
    journal = node.state / "journal"
    whole = journal.read_bytes().splitlines(keepends=True)
    assert b'"commit"' in whole[-1]
    journal.write_bytes(b"".join(whole[:-1]) + whole[-1][:20])
    summary = node.restart()
    assert (summary.freed, summary.damaged) == (1, 1)
    assert "net1" not in pod.run("ip", "link")


def test_the_mtu_falls_on_live_interfaces(node: Node) -> None:
    pod = node.nets.make()
    node.add(pod, "one")
    node.cni.set_network(dataclasses.replace(NETWORK, mtu=1280))
    assert "mtu 1280" in pod.run("ip", "link", "show", "net1")
    assert "mtu 1280" in node.node_netns.run("ip", "-o", "link", "show", "type", "veth")
    assert pod.answers_ping("10.112.4.0", size=1252, fragment=False)


def test_garbage_is_what_the_runtime_does_not_list_and_is_dead(node: Node) -> None:
    listed, unlisted, dead = (node.nets.make() for _ in range(3))
    for pod, container in ((listed, "listed"), (unlisted, "unlisted"), (dead, "dead")):
        node.add(pod, container)
    node.nets.remove(dead)
    valid = [{"containerID": "listed", "ifname": "net1"}]
    config = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    deadline = time.monotonic() + 60
    while len(node.cni.attachments()) == 3:
        assert node.call("GC", None, "x", config=config).code == 0
        assert time.monotonic() < deadline
    assert {a.pod_name for a in node.cni.attachments()} == {"listed", "unlisted"}
    none = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": None}
    assert node.call("GC", None, "x", config=none).code == 0


def test_both_families_are_wired_together(node: Node) -> None:
    blocks = (*NETWORK.blocks, ipaddress.ip_network("fd00:1::/64"))
    fleet = (*NETWORK.fleet, ipaddress.ip_network("fd00::/16"))
    node.cni.set_network(dataclasses.replace(NETWORK, blocks=blocks, fleet=fleet))
    pod = node.nets.make()
    result = json.loads(node.call("ADD", pod, "one").stdout)
    assert [ip["address"] for ip in result["ips"]] == ["10.112.4.1/32", "fd00:1::1/128"]
    assert pod.answers_ping("fd00:1::")
    assert pod.answers_ping("10.112.4.0")
    assert node.call("CHECK", pod, "one", config={"prevResult": result}).code == 0
    assert node.restart(node_netns=node.nets.make("node2")).recreated == 1
    assert pod.answers_ping("fd00:1::")
    assert node.call("DEL", pod, "one").code == 0
    assert pod.run("ip", "-6", "route") == ""


def test_a_hundred_come_back(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = (*NETWORK.blocks, ipaddress.ip_network("10.112.4.64/26"))
    node.cni.set_network(dataclasses.replace(NETWORK, blocks=blocks))
    pods = [node.nets.make() for _ in range(100)]
    held = [node.add(pod, f"c{i}") for i, pod in enumerate(pods)]
    node.cni.close()
    node.nets.remove(node.node_netns)
    new = node.nets.make("node2")
    started = time.perf_counter()
    summary = node.restart(node_netns=new)
    took = time.perf_counter() - started
    with capsys.disabled():
        print(f"\n100 pairs made again in {took * 1000:.0f} ms")
    assert summary.recreated == 100
    assert pods[0].answers_ping(held[99])


def test_fifty_at_once_get_fifty_addresses(node: Node) -> None:
    pods = [node.nets.make() for _ in range(50)]
    with concurrent.futures.ThreadPoolExecutor(16) as callers:
        held = list(callers.map(lambda pair: node.add(pair[1], f"c{pair[0]}"), enumerate(pods)))
        assert len(set(held)) == 50
        assert pods[0].answers_ping(held[49])
        answers = list(callers.map(lambda i: node.call("DEL", pods[i], f"c{i}").code, range(50)))
    assert answers == [0] * 50
    assert "fv" not in node.node_netns.run("ip", "-br", "link")
    assert node.cni.usage().used == 0
