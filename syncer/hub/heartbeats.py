"""Whether a member still reports, by our own clock alone.

One invariant: a member is late only if we watched it say nothing for that long; what we didn't see, because we were
away or have just begun, counts as in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

STALE_S = 60.0


class Heartbeats:
    """When each member's heartbeat was last seen to change. Not safe to share by threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}

    def see(self, cluster: str, heartbeat: str) -> float:
        """Take notice of a heartbeat's value and return for how long it has been the same."""
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
        """Begin to count anew for all, as at the start of a term."""
        self._seen.clear()
