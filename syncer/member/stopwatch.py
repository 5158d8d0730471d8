"""How long a change takes from its news to its write.

One invariant: of several changes to one key that one write settles, the oldest counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from syncer.member import metrics


class Stopwatch:
    """Time keys of one direction; safe to share by threads (each step is one dict operation)."""

    def __init__(self, direction: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._histogram = metrics.SYNC_SECONDS.labels(direction)
        self._began: dict[Hashable, float] = {}

    def start(self, key: Hashable) -> None:
        """Take note of news about ``key``."""
        self._began.setdefault(key, self._clock())

    def stop(self, key: Hashable, *, wrote: bool) -> None:
        """End the key's time; count it when there was something to write."""
        began = self._began.pop(key, None)
        if began is not None and wrote:
            self._histogram.observe(self._clock() - began)
