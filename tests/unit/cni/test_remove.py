"""What an uninstall takes off a node, and what it leaves."""

from __future__ import annotations

import base64
import json
import pathlib
from typing import Any

import pytest

from cni import remove

OURS: dict[str, Any] = {
    "Conf": {"name": "fleetboard", "type": "fleetboard"},
    "ConfList": {},
    "Name": "default/fleetboard",
}
PRIMARY: dict[str, Any] = {
    "Conf": {"ipam": {}},
    "ConfList": {"name": "cbr0", "plugins": [{"type": "ptp"}]},
    "Name": "cbr0",
}
CHAINED: dict[str, Any] = {"Conf": {}, "ConfList": {"plugins": [{"type": "tuning"}, {"type": "fleetboard"}]}}


def result_of(plugin: str) -> str:
    config = base64.b64encode(json.dumps({"name": "fleetboard", "type": plugin}).encode()).decode()
    return json.dumps({"kind": "cniCacheV1", "config": config})


def test_multus_forgets_our_network_and_keeps_every_other() -> None:
    rest = remove.without_ours(json.dumps([PRIMARY, OURS, CHAINED]))
    assert rest is not None
    assert json.loads(rest) == [PRIMARY]


@pytest.mark.parametrize("text", [json.dumps([PRIMARY]), "[]", "{}", "null", "not JSON", json.dumps([1, "a", None])])
def test_files_without_our_entries_are_not_written(text: str) -> None:
    assert remove.without_ours(text) is None


def test_a_result_is_ours_by_its_executable_and_not_by_its_networks_name() -> None:
    assert remove.is_our_result(result_of("fleetboard"))
    assert not remove.is_our_result(result_of("macvlan"))
    for text in ("", "{}", "[]", '{"config": "%%%"}', '{"config": 5}'):
        assert not remove.is_our_result(text)


@pytest.fixture
def node(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    files = {
        "bin/.fleetboard/v1/fleetboard": "",
        "bin/ptp": "",
        "var/fleetboard/journal": "",
        "var/cni/multus/attached": json.dumps([PRIMARY, OURS]),
        "var/cni/multus/plain": json.dumps([PRIMARY]),
        "var/cni/multus/results/fleetboard-attached-net1": result_of("fleetboard"),
        "var/cni/multus/results/cbr0-attached-eth0": result_of("ptp"),
        "run/fleetboard/cni.sock": "",
        "run/other": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "bin/fleetboard").symlink_to(".fleetboard/v1/fleetboard")
    (tmp_path / "var/cni/multus/attached").chmod(0o600)
    for name, folder in (("CNI_BIN_DIR", "bin"), ("VAR_LIB", "var"), ("RUN", "run")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    return tmp_path


def test_a_node_keeps_everything_but_what_is_ours(node: pathlib.Path) -> None:
    assert remove.main() == 0
    left = {str(path.relative_to(node)) for path in node.rglob("*") if not path.is_dir()}
    assert left == {
        "bin/ptp",
        "var/cni/multus/attached",
        "var/cni/multus/plain",
        "var/cni/multus/results/cbr0-attached-eth0",
        "run/other",
    }
    assert not (node / "var/fleetboard").exists()
    assert not (node / "run/fleetboard").exists()
    attached = node / "var/cni/multus/attached"
    assert json.loads(attached.read_text()) == [PRIMARY]
    assert attached.stat().st_mode & 0o777 == 0o600


def test_cleaning_may_be_repeated_and_needs_no_multus(node: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert remove.main() == 0
    assert remove.main() == 0


def test_a_node_that_cannot_be_cleaned_says_so(
    node: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CNI_BIN_DIR", str(node / "run/other"))
    assert remove.main() == 1
    assert "could not clean the node" in capsys.readouterr().err
