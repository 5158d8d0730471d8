"""Fixtures of all tests on the real kernel."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable, Iterator

import netlab
import packed_shim
import pytest
import shim_node


@pytest.fixture
def nets() -> Iterator[netlab.Nets]:
    """Namespaces of one test."""
    if os.geteuid():
        pytest.fail("tests of the kernel need root")
    with netlab.throw_away() as made:
        yield made


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Poll until something is true, at most 10 s."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it did not come true within 10 s"
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
