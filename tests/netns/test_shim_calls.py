"""ADD and DEL through the packed executable, in any order and state (CNI 18 to 21 and 25 to 28 in README.md)."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import json
import pathlib
from collections.abc import Callable

import packed_shim
import pytest
import shim_node
from netlab import Net
from shim_node import Answer, Node, environ

pytestmark = pytest.mark.netns

CLEAN = Answer(0, b"", b"")
FULL = dataclasses.replace(shim_node.NETWORK, blocks=(ipaddress.ip_network("10.112.4.0/31"),))


def traces(node: Node, pod: Net) -> tuple[str, str, int]:
    """Return all that a call may leave: the pod's interfaces and routes, cnf's interfaces, and addresses in use."""
    seen = "".join(pod.run("ip", "-o", *what) for what in (("addr",), ("route", "show", "table", "all")))
    return seen, node.node_netns.run("ip", "-o", "link"), node.cni.usage().used


def test_cni18_an_interface_that_is_there_is_refused_and_left(node: Node) -> None:
    pod = node.nets.make()
    pod.run("ip", "link", "add", "net1", "type", "bridge")
    before = traces(node, pod)
    assert node.call("ADD", "one", pod).code == 100
    assert traces(node, pod) == before
    assert node.call("DEL", "one", pod) == CLEAN
    assert traces(node, pod) == before


def test_cni19_an_add_that_fails_leaves_nothing_and_its_deletion_works(node: Node) -> None:
    first, pod = node.nets.make(), node.nets.make()
    assert node.call("ADD", "first", first).status == 0
    before = traces(node, pod)
    wishes: dict[str, tuple[dict[str, object], int]] = {
        "an address of another node": ({"ips": ["10.112.9.1"]}, 7),
        "an address in use": ({"ips": ["10.112.4.1"]}, 11),
        "the node's own address": ({"ips": ["10.112.4.0"]}, 7),
        "two of one family": ({"ips": ["10.112.4.8", "10.112.4.9"]}, 7),
        "no address": ({"ips": ["10.112.4"]}, 7),
        "a group's MAC": ({"mac": "01:00:5e:00:00:01"}, 7),
        "no MAC": ({"mac": "x"}, 7),
    }
    for wish, (runtime, code) in wishes.items():
        answer = node.call("ADD", "one", pod, config={"runtimeConfig": runtime})
        assert (answer.code, answer.stderr) == (code, b""), wish
        assert traces(node, pod) == before
        assert node.call("DEL", "one", pod) == CLEAN
        assert traces(node, pod) == before
    assert first.answers_ping("10.112.4.0")


def test_cni19_our_second_interface_is_refused_and_the_first_is_left(node: Node) -> None:
    pod = node.nets.make()
    assert node.call("ADD", "one", pod).status == 0
    before = traces(node, pod)
    assert node.call("ADD", "one", pod).code == 100
    assert node.call("ADD", "one", pod, CNI_IFNAME="net2").code == 101
    assert traces(node, pod) == before
    # The runtime deletes what failed, and only that.
    assert node.call("DEL", "one", pod, CNI_IFNAME="net2") == CLEAN
    assert traces(node, pod) == before


def test_cni20_the_plugins_and_cnfs_own_namespaces_are_refused(node: Node) -> None:
    own = Net("own")
    for path in ("/proc/self/ns/net", "/proc/1/ns/net"):
        own.path = pathlib.Path(path)
        answer = node.call("ADD", "one", own)
        assert (answer.code, answer.stderr) == (8, b"")
        assert node.call("DEL", "one", own) == CLEAN
    assert node.call("ADD", "one", node.node_netns).code == 8
    assert node.call("DEL", "one", node.node_netns) == CLEAN


def test_cni21_an_invalid_namespace_is_refused_and_its_deletion_works(node: Node, tmp_path: pathlib.Path) -> None:
    plain = Net("x")
    (tmp_path / "plain").touch()
    for path in (tmp_path / "missing", tmp_path / "plain", tmp_path, pathlib.Path("/proc/self/ns/mnt")):
        plain.path = path
        assert node.call("ADD", "one", plain).code == 8
        assert node.call("DEL", "one", plain) == CLEAN


def test_cni21_a_deletion_frees_the_address_wherever_the_namespace_is(node: Node, tmp_path: pathlib.Path) -> None:
    gone = Net("x")
    gone.path = tmp_path / "missing"
    (tmp_path / "plain").touch()
    plain = Net("y")
    plain.path = tmp_path / "plain"
    for pod in (None, gone, plain, node.nets.make()):
        attached = node.nets.make()
        assert node.call("ADD", "one", attached).status == 0
        assert node.call("DEL", "one", pod) == CLEAN
        assert node.cni.usage().used == 0
        assert "net1" not in attached.run("ip", "link")
        assert node.call("DEL", "one", pod) == CLEAN


def test_cni21_the_deletion_of_a_dead_namespace_frees_the_address(node: Node) -> None:
    pod = node.nets.make()
    assert node.call("ADD", "one", pod).status == 0
    node.nets.remove(pod)
    assert node.call("DEL", "one", pod) == CLEAN
    assert node.cni.usage().used == 0


def test_cni21_a_deletion_takes_nothing_of_somebody_else(node: Node) -> None:
    """A path that is reused leads to another container's namespace."""
    theirs, pod = node.nets.make(), node.nets.make()
    assert node.call("ADD", "theirs", theirs).status == 0
    before = traces(node, theirs)
    assert node.call("DEL", "never-added", theirs) == CLEAN
    assert traces(node, theirs) == before
    assert node.call("ADD", "one", pod).status == 0
    assert node.call("DEL", "one", theirs) == CLEAN
    assert traces(node, theirs) == before
    assert "net1" not in pod.run("ip", "link")


def test_cni25_pods_at_once_get_addresses_of_their_own(node: Node) -> None:
    pods = {f"c{number}": node.nets.make() for number in range(16)}
    with concurrent.futures.ThreadPoolExecutor(16) as runtimes:
        found = list(runtimes.map(lambda item: node.call("ADD", *item).content["ips"][0]["address"], pods.items()))
        assert len(set(found)) == 16
        assert {answer.status for answer in runtimes.map(lambda item: node.call("DEL", *item), pods.items())} == {0}
    assert node.cni.attachments() == []


def test_cni25_calls_of_one_container_at_once_are_served_one_after_the_other(node: Node) -> None:
    pod = node.nets.make()
    before = traces(node, pod)
    with concurrent.futures.ThreadPoolExecutor(9) as runtimes:
        adds = [runtimes.submit(node.call, "ADD", "one", pod) for _ in range(8)]
        assert sorted(add.result().code for add in adds) == [0, *[100] * 7]
        assert node.cni.usage().used == 1
        deletions = [runtimes.submit(node.call, "DEL", "one", pod) for _ in range(8)]
        assert {deletion.result().status for deletion in deletions} == {0}
    assert traces(node, pod) == before


def test_cni26_a_deletion_wins_over_the_adds_before_it(
    node: Node, eventually: Callable[[Callable[[], object]], None]
) -> None:
    """The runtime gave up on one ADD, sent another and then a DEL, and all three wait."""
    first, pod = node.nets.make(), node.nets.make()
    assert node.call("ADD", "first", first).status == 0
    before = traces(node, pod)
    node.cni.set_network(FULL)
    node.cni.calls.address_timeout_s = 25
    with concurrent.futures.ThreadPoolExecutor(3) as runtimes:
        calls = [runtimes.submit(node.call, "ADD", "one", pod)]
        eventually(lambda: node.cni.waiting)
        calls.append(runtimes.submit(node.call, "ADD", "one", pod))
        eventually(lambda: node.cni.calls.count_calls("one") == 2)
        calls.append(runtimes.submit(node.call, "DEL", "one", pod))
        eventually(lambda: node.cni.calls.count_calls("one") == 3)
        node.cni.set_network(shim_node.NETWORK)
        assert calls[2].result(timeout=30) == CLEAN
        assert {call.result(timeout=30).code for call in calls[:2]} <= {0, 100, 103}
    assert traces(node, pod) == before


def test_cni26_the_container_may_be_attached_again_after_its_deletion(node: Node) -> None:
    pod = node.nets.make()
    assert node.call("DEL", "one", pod) == CLEAN
    for _ in range(2):
        assert node.call("ADD", "one", pod).status == 0
        assert pod.answers_ping("10.112.4.0")
        assert node.call("DEL", "one", pod) == CLEAN
        assert node.call("DEL", "one", pod) == CLEAN


def test_cni27_a_call_that_is_killed_leaves_nothing(
    node: Node, eventually: Callable[[Callable[[], object]], None]
) -> None:
    first, pod = node.nets.make(), node.nets.make()
    assert node.call("ADD", "first", first).status == 0
    node.cni.set_network(FULL)
    with node.start(environ("ADD", "one", pod)) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(shim_node.CONFIG).encode())
        process.stdin.close()
        # It waits for an address, its caller gives up, and then an address is free.
        eventually(lambda: node.cni.waiting)
        process.kill()
    eventually(lambda: not node.cni.waiting)
    node.cni.set_network(shim_node.NETWORK)
    eventually(lambda: "net1" not in pod.run("ip", "link"))
    assert [attachment.pod_name for attachment in node.cni.attachments()] == ["first"]


def test_cni28_what_the_runtime_asks_for_is_given_or_refused_by_name(node: Node) -> None:
    pod = node.nets.make()
    wanted = {"ips": ["10.112.4.20"], "mac": "0A-58-0A-70-04-14"}
    result = node.call("ADD", "one", pod, config={"runtimeConfig": wanted}).content
    assert (result["ips"][0]["address"], result["interfaces"][0]["mac"]) == ("10.112.4.20/32", "0a:58:0a:70:04:14")
    refused = node.call("ADD", "two", node.nets.make(), config={"runtimeConfig": {"ips": ["10.112.4.20/12"]}})
    assert refused.code == 11
    assert refused.content["msg"] == "requested address 10.112.4.20 is in use"


def test_the_executable_needs_less_than_ten_megabytes(shim: pathlib.Path) -> None:
    peak_mb = packed_shim.peak_memory(shim) / (1 << 20)
    print(f"\nthe CNI executable takes {peak_mb:.1f} MB")
    assert peak_mb < 10
