"""Every test here needs the lab with Fleetboard installed; ``hack/test`` brings both up."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Callable, Generator, Iterator

import evidence
import lab
import pytest

HERE = pathlib.Path(__file__).parent
_SEEN = pytest.StashKey[list[BaseException]]()

ORDER = (
    "paths",
    "mcs",
    "follow",
    "protection",
    "isolation",
    "attach_default",
    "multus_thin",
    "cni_folder",
    "metrics",
    "latency_probe",
    "refusals",
    "full",
    "startup_taint",
    "multus_defaults",
    "scale",
    "kube_proxy",
    "recovery",
    "survival",
    "hub_away",
    "install",
)
"""What breaks nothing comes first: a fault is then found where it is, and not after a node was restarted."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder, and put it in ``ORDER`` behind everything else."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    items.sort(key=_place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what the lab looked like when a test here failed; once for a fixture that several tests failed with."""
    report = yield
    if report.failed and HERE in item.path.parents and call.excinfo is not None and "KUBECONFIG" in os.environ:
        seen = item.session.stash.setdefault(_SEEN, [])
        if len(seen) < evidence.MOST and all(call.excinfo.value is not before for before in seen):
            seen.append(call.excinfo.value)
            report.sections.append(("what the lab's parts warned of", evidence.collect(item.name)))
    return report


def _place(item: pytest.Item) -> int:
    if HERE not in item.path.parents:
        return -1
    return ORDER.index(item.path.stem.removeprefix("test_"))


@pytest.fixture(scope="session", autouse=True)
def _lab() -> None:
    if "KUBECONFIG" not in os.environ:
        pytest.fail('KUBECONFIG is not set: run hack/test, or hack/deploy and then eval "$(hack/lab env)"')
    for cluster in (lab.C1, lab.C2):
        joined = cluster.get("peerreport", cluster.name, lab.SYSTEM)["status"]["conditions"]
        assert any(condition["type"] == "Joined" and condition["status"] == "True" for condition in joined), joined


@pytest.fixture(scope="module")
def namespaces() -> Iterator[Callable[[str], str]]:
    """Give a maker of namespaces that exist in both members and are deleted after the module."""
    made: collections.deque[str] = collections.deque()

    def make(name: str) -> str:
        for cluster in (lab.C1, lab.C2):
            cluster.delete("namespace", name)  # one that an earlier run left may still be going away
            cluster.apply(lab.make_namespace(name))
        made.append(name)
        return name

    yield make
    for name in made:
        for cluster in (lab.C1, lab.C2):
            cluster.delete("namespace", name, wait=False)
