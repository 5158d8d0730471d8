"""Wait for what another thread brings about.

How long is no measure of anything: a machine that does much else is slow and not wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], *, within_s: float = 30.0) -> None:
    """Poll until ``condition`` holds; fail when it doesn't in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)
