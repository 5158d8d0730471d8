"""Fixtures of all tests on the real kernel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import netlab
import pytest


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
