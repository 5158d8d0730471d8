"""GC and STATUS through the packed executable (CNI 23 and 24 in README.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import shim_node
from shim_node import Answer, Node

pytestmark = pytest.mark.netns

CLEAN = Answer(0, b"", b"")
NEW = {"cniVersion": "1.1.0"}


def collect(node: Node, valid: Any, **config: Any) -> Answer:
    return node.call("GC", "", None, config={**NEW, "cni.dev/valid-attachments": valid, **config})


def test_cni23_what_lives_is_left_whatever_the_list_says(node: Node) -> None:
    pod = node.nets.make()
    node.call("ADD", "one", pod)
    for valid in (None, [], [{"containerID": "other", "ifname": "net1"}]):
        assert collect(node, valid) == CLEAN
    assert node.call("GC", "", None, config=NEW) == CLEAN
    assert pod.answers_ping("10.112.4.0")


def test_cni23_what_is_dead_and_not_listed_is_freed(
    node: Node, eventually: Callable[[Callable[[], object]], None]
) -> None:
    pods = {name: node.nets.make() for name in ("listed", "unlisted", "foreign")}
    for name, pod in pods.items():
        node.call("ADD", name, pod, config={"name": "theirs" if name == "foreign" else "fleetboard"})
    for pod in pods.values():
        node.nets.remove(pod)
    # The kernel ends namespaces in its own time, and what still exists is not a dead attachment.
    eventually(lambda: "fv" not in node.node_netns.run("ip", "-br", "link"))
    # A list that is null says nothing: Go writes one that was never made so.
    assert collect(node, None) == CLEAN
    assert node.cni.usage().used == 3
    listed = [{"containerID": "listed", "ifname": "net1"}]
    assert collect(node, listed, **{"cni.dev/attachments": listed}) == CLEAN
    assert {attachment.pod_name for attachment in node.cni.attachments()} == {"listed", "foreign"}
    assert collect(node, []) == CLEAN
    assert {attachment.pod_name for attachment in node.cni.attachments()} == {"foreign"}


def test_cni23_an_invalid_list_is_refused(node: Node) -> None:
    for valid in (7, "x", [7], [{"containerID": "x"}], {"containerID": "x"}):
        answer = collect(node, valid)
        assert answer.code == 7
        assert "cni.dev/valid-attachments" in answer.content["msg"]


def test_cni24_status_tells_whether_an_add_would_work(node: Node) -> None:
    assert node.call("STATUS", "", None, config=NEW) == CLEAN
    node.cni.set_network(dataclasses.replace(shim_node.NETWORK, blocks=()))
    answer = node.call("STATUS", "", None, config=NEW)
    assert answer.code == 50
    assert "no fleet addresses" in answer.content["msg"]
    node.cni.set_network(shim_node.NETWORK)
    node.node_netns.run("ip", "addr", "flush", "dev", "lo")
    answer = node.call("STATUS", "", None, config=NEW)
    assert answer.code == 51
    assert "10.112.4.0" in answer.content["msg"]
    # Never a precondition of a deletion.
    assert node.call("DEL", "one", None) == CLEAN
