"""Wait for what another thread does.

The time-out measures nothing: a busy machine is slow, not wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, within_s: float = 30.0) -> T:
    """Return what ``condition`` returns once that is true; fail when it isn't in time."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not in time; last: {found!r}"
        time.sleep(0.01)
    return found
