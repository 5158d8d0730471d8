"""Fixtures of all tests on the real kernel."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import netlab
import packed_shim
import pytest
import quick_nets
import shim_node


def _handles() -> list[str]:
    """Return the network namespaces that this process holds open, once for each descriptor."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself, and those that other threads close meanwhile
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(target for target in found if target.startswith("net:"))


@pytest.fixture(autouse=True)
def _no_namespace_is_held() -> Iterator[None]:
    """Fail a test that changes how many namespaces this process holds: each one lives as long as a holder.

    A namespace that a module holds for all its tests exists before and after each of them, so it doesn't count.
    """
    before = _handles()
    yield
    after = _handles()
    assert len(after) == len(before), f"namespaces held: {before} before the test, {after} after it"


@pytest.fixture
def nets() -> Iterator[netlab.Nets]:
    """Namespaces of one test."""
    if os.geteuid():
        pytest.fail("tests of the kernel need root")
    with netlab.throw_away() as made:
        yield made


@pytest.fixture
def quick(tmp_path: pathlib.Path) -> Iterator[quick_nets.QuickNets]:
    """Namespaces of one test, by the hundred, in a folder that can be cnf's ``netns_dir``."""
    with quick_nets.throw_away(tmp_path / "netns") as made:
        yield made


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Poll until a condition is true, at most a minute: a busy machine is slow, and not wrong."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "the condition was not true within a minute"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The packed CNI executable, installed."""
    return packed_shim.install(packed_shim.pack(), tmp_path_factory.mktemp("bin"))


@pytest.fixture
def node(nets: netlab.Nets, tmp_path: pathlib.Path, shim: pathlib.Path) -> Iterator[shim_node.Node]:
    """A node whose cnf serves the packed executable."""
    with shim_node.make_node(nets, tmp_path, shim) as made, made.serving():
        yield made
