"""Return whether a member still reports, by this process' clock alone.

Invariant: a member is stale only after this process watched its heartbeat stand still for that long. Time that nobody
watched, before this process led, counts as in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

STALE_S = 60.0


class Heartbeats:
    """When each member's heartbeat was last seen to change. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}

    def see(self, cluster: str, heartbeat: str) -> float:
        """Record a heartbeat's value; return for how long it has been the same."""
        now = self._clock()
        last = self._seen.get(cluster)
        if last is None or last[0] != heartbeat:
            self._seen[cluster] = (heartbeat, now)
            return 0.0
        return now - last[1]

    def forget(self, cluster: str) -> None:
        """Drop a member that left."""
        self._seen.pop(cluster, None)

    def restart(self) -> None:
        """Start counting again for every member, as at the start of a term."""
        self._seen.clear()
