"""Which nodes an uninstall can clean, and when it has."""

from __future__ import annotations

import pytest

from fleetboard.model import core, meta
from syncer.member.uninstall import hook


def make_node(name: str, ready: str | None) -> core.Node:
    conditions = [core.NodeCondition(type="MemoryPressure", status="True")]
    if ready is not None:
        conditions.append(core.NodeCondition(type="Ready", status=ready))
    return core.Node(metadata=meta.ObjectMeta(name=name), status=core.NodeStatus(conditions=conditions))


def test_a_node_is_dead_unless_its_kubelet_says_that_it_is_ready() -> None:
    nodes = [make_node("a", "True"), make_node("b", "False"), make_node("c", "Unknown"), make_node("d", None)]
    assert hook.dead_nodes(nodes) == {"b", "c", "d"}


@pytest.mark.parametrize(
    ("wanted", "ready", "dead", "cleaned"),
    [(0, 0, 0, False), (3, 2, 0, False), (3, 3, 0, True), (3, 2, 1, True), (3, 1, 1, False), (1, 0, 1, False)],
)
def test_dead_nodes_are_not_waited_for(wanted: int, ready: int, dead: int, cleaned: bool) -> None:
    status = {"desiredNumberScheduled": wanted, "numberReady": ready}
    assert hook.is_cleaned(status, dead=dead) is cleaned
