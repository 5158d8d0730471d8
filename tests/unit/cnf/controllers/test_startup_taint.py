"""When a node's startup taint goes, when it comes back, and what else of the node stays."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import msgspec
import pytest

from cnf.controllers import startup_taint
from fleetboard.kube import errors
from fleetboard.model import core, meta, taints

OURS = core.Taint(key="fleetboard.io/cnf-not-ready", effect="NoSchedule")
THEIRS = core.Taint(key="gpu", value="a", effect="NoExecute", time_added="2026-11-25T00:00:00Z")


def make_node(*found: core.Taint, version: str = "7") -> core.Node:
    return core.Node(
        metadata=meta.ObjectMeta(name="n", resource_version=version), spec=core.NodeSpec(taints=list(found))
    )


def test_the_taint_goes_and_every_other_stays_as_it_is() -> None:
    patch = taints.untainted(make_node(THEIRS, OURS), registered=True)
    assert patch == {
        "metadata": {"resourceVersion": "7"},
        "spec": {"taints": [{"key": "gpu", "value": "a", "effect": "NoExecute", "timeAdded": "2026-11-25T00:00:00Z"}]},
    }
    assert taints.untainted(make_node(THEIRS), registered=True) is None


def test_whichever_effect_a_node_was_registered_with_it_goes_and_is_not_put_on_twice() -> None:
    registered = core.Taint(key=OURS.key, value="true", effect="NoExecute")
    node = make_node(registered)
    assert taints.tainted(node) is None
    assert taints.untainted(node, registered=False) is None
    patch = taints.untainted(node, registered=True)
    assert patch is not None
    assert patch["spec"] == {"taints": []}


def test_the_taint_is_put_beside_others_and_evicts_nobody() -> None:
    patch = taints.tainted(make_node(THEIRS))
    assert patch is not None
    assert [taint["effect"] for taint in patch["spec"]["taints"]] == ["NoExecute", "NoSchedule"]
    assert patch["spec"]["taints"][1] == {
        "key": "fleetboard.io/cnf-not-ready",
        "value": "multus-away",
        "effect": "NoSchedule",
    }


def conf(folder: pathlib.Path, name: str, content: object) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def test_multus_is_called_when_the_first_usable_configuration_is_its_own(tmp_path: pathlib.Path) -> None:
    assert not startup_taint.calls_multus(tmp_path / "none")
    assert not startup_taint.calls_multus(tmp_path)
    conf(tmp_path, "10-flannel.conflist", {"name": "cbr0", "plugins": [{"type": "flannel"}, {"type": "portmap"}]})
    assert not startup_taint.calls_multus(tmp_path)
    conf(tmp_path, "00-multus.conf", {"name": "m", "type": "multus-shim"})
    assert startup_taint.calls_multus(tmp_path)
    conf(tmp_path, "00-multus.conf", {"name": "m", "type": "multus"})
    assert startup_taint.calls_multus(tmp_path)
    conf(tmp_path, "00-a.conf", '{"type": ')
    conf(tmp_path, "00-b.conflist", {"plugins": []})
    conf(tmp_path, "00-c.txt", {"type": "other"})
    conf(tmp_path, "00-d.conf", [1])
    assert startup_taint.calls_multus(tmp_path), "what the runtime passes over doesn't count"
    conf(tmp_path, "00-e.json", {"type": "other"})
    assert not startup_taint.calls_multus(tmp_path)


class OneNode:
    """An API server that holds one node."""

    def __init__(self, node: core.Node) -> None:
        self.node, self.reads, self.writes, self.conflicts = node, 0, 0, 0

    def get(self, _resource: object, name: str) -> core.Node:
        assert name == self.node.metadata.name
        self.reads += 1
        return self.node

    def merge_patch(self, _resource: object, _name: str, _namespace: str, patch: dict[str, Any]) -> None:
        if self.conflicts:
            self.conflicts -= 1
            raise errors.ConflictError(409, "Conflict", "")
        assert patch["metadata"]["resourceVersion"] == self.node.metadata.resource_version
        self.writes += 1
        self.node = make_node(*msgspec.convert(patch["spec"]["taints"], list[core.Taint]), version=str(self.writes))

    @property
    def tainted(self) -> bool:
        return taints.is_tainted(self.node)


class World:
    """One node, its configurations, and cnf's own state."""

    def __init__(self, folder: pathlib.Path, *found: core.Taint, multus: bool = True) -> None:
        self.api, self.folder = OneNode(make_node(*found)), folder / "net.d"
        self.folder.mkdir()
        self.reason: str | None = "no block"
        self.now = 0.0
        self.taint = startup_taint.StartupTaintController(
            self.api,  # type: ignore[arg-type]
            node="n",
            conf_dir=self.folder,
            state_dir=folder,
            unready_reason=lambda: self.reason,
            clock=lambda: self.now,
        )
        if multus:
            self.multus(there=True)

    def multus(self, *, there: bool) -> None:
        if there:
            conf(self.folder, "00-multus.conf", {"type": "multus"})
        else:
            (self.folder / "00-multus.conf").unlink()

    def tainted_after_a_look(self) -> bool:
        assert self.taint.reconcile("n") == startup_taint.PERIOD_S
        return self.api.tainted


def test_a_registered_taint_stays_until_pods_can_be_attached(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, OURS)
    assert world.tainted_after_a_look()
    world.reason = None
    world.multus(there=False)
    assert world.tainted_after_a_look()
    world.multus(there=True)
    assert not world.tainted_after_a_look()
    assert world.api.writes == 1


def test_it_comes_back_while_multus_is_away_and_not_while_cnf_is(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)
    assert not world.tainted_after_a_look()
    world.multus(there=False)
    assert world.tainted_after_a_look()
    world.multus(there=True)
    assert not world.tainted_after_a_look(), "a cluster that hasn't joined is not closed forever by Multus' upgrade"
    world.reason = None
    assert not world.tainted_after_a_look()
    world.reason = "services not in place"
    assert not world.tainted_after_a_look()


def test_a_folder_that_never_held_multus_closes_no_node(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, multus=False)
    assert not world.tainted_after_a_look()
    assert not world.tainted_after_a_look()
    assert len(caplog.records) == 1
    assert "cni.confDir" in caplog.text
    world.multus(there=True)
    assert not world.tainted_after_a_look()
    world.multus(there=False)
    assert world.tainted_after_a_look()


def test_a_settled_node_is_read_once_a_minute_and_mended(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)
    world.reason = None
    for _ in range(50):
        world.taint.reconcile("n")
    assert world.api.reads == 1
    world.api.node = make_node(OURS)
    world.now += startup_taint.RESYNC_S
    assert not world.tainted_after_a_look()


def test_a_node_that_somebody_changed_meanwhile_is_tried_again(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, OURS)
    world.reason = None
    world.api.conflicts = 1
    with pytest.raises(errors.ConflictError):
        world.taint.reconcile("n")
    assert not world.tainted_after_a_look()
