"""The queue of keys that await work.

Invariant: at most one worker has a key at a time, and a key that is added meanwhile is given out again afterwards.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from fleetboard.kube import backoff

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """A de-duplicating queue with delays and back-off. Thread-safe."""

    def __init__(
        self,
        *,
        base_s: float = 0.05,
        cap_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._base_s, self._cap_s, self._clock, self._jitter = base_s, cap_s, clock, jitter
        self._changed = threading.Condition()
        self._ready: dict[K, None] = {}  # a dict for its order
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._timers: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}  # the valid timer of each key; others in the heap are stale
        self._failures: dict[K, int] = {}
        self._ticket = itertools.count()
        self._closed = False

    def add(self, key: K) -> None:
        """Add ``key`` now."""
        with self._changed:
            self._make_ready(key)

    def add_after(self, key: K, delay_s: float) -> None:
        """Add ``key`` after a delay; of several delays the one that ends first counts."""
        with self._changed:
            due = self._clock() + delay_s
            if key in self._due and self._due[key] <= due:
                return
            self._due[key] = due
            heapq.heappush(self._timers, (due, next(self._ticket), key))
            self._changed.notify()

    def retry(self, key: K) -> float:
        """Count a failure of ``key``, add it again after its back-off, and return that."""
        with self._changed:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay_s = backoff.delay(failures, base_s=self._base_s, cap_s=self._cap_s, jitter=self._jitter)
        self.add_after(key, delay_s)
        return delay_s

    def get(self) -> K | None:
        """Wait for the next key and return it, or None once the queue is closed; call ``done`` afterwards."""
        with self._changed:
            while not self._closed:
                wait_s = self._fire_timers()
                if self._ready:
                    key = next(iter(self._ready))
                    del self._ready[key]
                    self._busy.add(key)
                    return key
                self._changed.wait(wait_s)
            return None

    def done(self, key: K, ok: bool = True) -> None:
        """Return ``key`` to the queue; ``ok`` forgets its failures."""
        with self._changed:
            self._busy.discard(key)
            if ok:
                self._failures.pop(key, None)
            if key in self._again:
                self._again.discard(key)
                self._make_ready(key)

    def close(self) -> None:
        """Wake every worker with None; drop the keys that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        """Count the keys that are ready."""
        with self._changed:
            return len(self._ready)

    def _make_ready(self, key: K) -> None:
        if key in self._busy:
            self._again.add(key)
        else:
            self._ready[key] = None
            self._changed.notify()

    def _fire_timers(self) -> float | None:
        """Make due keys ready; return how long until the next timer."""
        now = self._clock()
        while self._timers:
            due, _, key = self._timers[0]
            if self._due.get(key) == due and due > now:
                return due - now
            heapq.heappop(self._timers)
            if self._due.get(key) == due:
                del self._due[key]
                self._make_ready(key)
        return None
