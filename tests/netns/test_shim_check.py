"""CHECK through the packed executable: it agrees with ADD, and names what has changed (CNI 22 in README.md)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import shim_node
from netlab import Net
from shim_node import Answer, Node

from cnf.attach import identity

pytestmark = pytest.mark.netns

CLEAN = Answer(0, b"", b"")


def attach(node: Node) -> tuple[Net, dict[str, Any]]:
    """Attach a pod; return it and ADD's result."""
    pod = node.nets.make()
    return pod, node.call("ADD", "one", pod).content


def check(node: Node, pod: Net, previous: Any) -> Answer:
    return node.call("CHECK", "one", pod, config={"prevResult": previous})


def test_cni22_check_works_at_once_and_needs_adds_result(node: Node) -> None:
    pod, result = attach(node)
    for version in ("0.4.0", "1.0.0", "1.1.0"):
        assert node.call("CHECK", "one", pod, config={"cniVersion": version, "prevResult": result}) == CLEAN
    missing = node.call("CHECK", "one", pod)
    assert missing.code == 7
    assert "prevResult" in missing.content["msg"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ip link set net1 down", "down"),
        ("ip link set net1 address 0a:00:00:00:00:01", "MAC"),
        ("ip link set net1 mtu 1400", "MTU"),
        ("ip addr flush dev net1", "address 10.112.4.1"),
        ("ip route del 10.112.0.0/12 dev net1", "route to 10.112.0.0/12"),
        ("ip route replace 10.112.0.0/12 dev net1", "route to 10.112.0.0/12"),
        ("ip link del net1", "missing"),
        ("ip link set net1 down; ip link set net1 name other", "missing"),
        ("ip link del net1; ip link add net1 type bridge; ip link set net1 up", "missing"),
    ],
)
def test_cni22_what_was_changed_in_the_pod_is_named(node: Node, change: str, named: str) -> None:
    pod, result = attach(node)
    pod.run("sh", "-c", change)
    answer = check(node, pod, result)
    assert (answer.code, answer.stderr) == (102, b"")
    assert named in answer.content["msg"]


def test_cni22_what_was_changed_at_cnfs_end_is_named(node: Node) -> None:
    pod, result = attach(node)
    name = identity.veth_name("one", "net1")
    node.node_netns.run("ip", "link", "set", name, "down")
    answer = check(node, pod, result)
    assert answer.code == 102
    assert name in answer.content["msg"]


def test_cni22_what_the_previous_result_lacks_is_named(node: Node) -> None:
    pod, result = attach(node)
    for broken, named in (
        ({**result, "interfaces": []}, "net1"),
        ({**result, "ips": []}, "10.112.4.1"),
        ({**result, "ips": [{**result["ips"][0], "address": "10.112.4.2/32"}]}, "10.112.4.1"),
        ({**result, "ips": [{**result["ips"][0], "interface": 1}]}, "10.112.4.1"),
    ):
        answer = check(node, pod, broken)
        assert answer.code == 102
        assert named in answer.content["msg"]


def test_cni22_an_attachment_that_cnf_does_not_know_is_named(node: Node) -> None:
    pod, result = attach(node)
    other = node.nets.make()
    moved = copy.deepcopy(result)
    moved["interfaces"][0]["sandbox"] = str(other.path)
    for answer in (
        node.call("CHECK", "two", pod, config={"prevResult": result}),
        check(node, other, moved),
    ):
        assert answer.code == 102
    node.call("DEL", "one", pod)
    assert check(node, pod, result).code == 102


def test_cni22_what_others_add_or_take_after_us_is_tolerated(node: Node) -> None:
    pod, result = attach(node)
    pod.run("ip", "link", "set", "net1", "mtu", "1300")
    pod.run("ip", "addr", "add", "192.0.2.7/24", "dev", "net1")
    pod.run("ip", "route", "add", "198.51.100.0/24", "dev", "net1")
    pod.run("ip", "link", "add", "net2", "type", "bridge")
    # A later plugin of the chain adds to the result, and Multus takes default routes out.
    later = copy.deepcopy(result)
    later["interfaces"].append({"name": "ifb0", "mac": "0a:00:00:00:00:09"})
    later["ips"].append({"interface": 0, "address": "192.0.2.7/24"})
    later["routes"] = []
    assert check(node, pod, later) == CLEAN


def test_cni22_both_families_are_compared(node: Node) -> None:
    node.cni.set_network(shim_node.BOTH_FAMILIES)
    pod, result = attach(node)
    assert check(node, pod, result) == CLEAN
    pod.run("ip", "-6", "addr", "flush", "dev", "net1")
    assert "fd00:1::1" in check(node, pod, result).content["msg"]
