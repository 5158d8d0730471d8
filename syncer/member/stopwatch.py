"""Measures how long a change takes from its event to its write.

Invariant: when one write covers several changes of a key, the oldest change counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from syncer.member import metrics


class Stopwatch:
    """Times keys of one direction. Thread-safe: each step is one dict operation."""

    def __init__(self, direction: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._histogram = metrics.SYNC_SECONDS.labels(direction)
        self._began: dict[Hashable, float] = {}

    def start(self, key: Hashable) -> None:
        """Start the key's time, unless it runs already."""
        self._began.setdefault(key, self._clock())

    def stop(self, key: Hashable, *, wrote: bool) -> None:
        """End the key's time; record it when there was something to write."""
        began = self._began.pop(key, None)
        if began is not None and wrote:
            self._histogram.observe(self._clock() - began)
