"""When a replica that shall stop may: once nobody asks it any more.

One invariant: a fixed time is never enough by itself. A resolver that keeps a socket, as CoreDNS does, stays with the
replica that it began with until kube-proxy takes the connection out of the kernel's table, which it does when the
replica's failing readiness has come to it: by way of kubelet, the API and a node that may be short of processors.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

LEAST_S = 8.0
"""Three readiness probes of 2 s, and what it takes to spread their news."""
QUIET_S = 3.0
MOST_S = 25.0
"""Less than the pod's terminationGracePeriodSeconds by what ending takes."""


@dataclasses.dataclass(slots=True)
class Drain:
    """Looks at the count of messages that came in; begins when it is made.

    Attributes:
        received: Counts what came in since the start.
        most_s: How long to go on at most, whoever asks.
    """

    received: Callable[[], int]
    most_s: float = MOST_S
    clock: Callable[[], float] = time.monotonic
    _began: float = 0.0
    _seen: int = 0
    _heard: float = 0.0

    def __post_init__(self) -> None:
        self._began = self._heard = self.clock()
        self._seen = self.received()

    def over(self) -> bool:
        """Tell whether the replica may end; to be called several times a second."""
        now, received = self.clock(), self.received()
        if received != self._seen:
            self._seen, self._heard = received, now
        quiet = now - self._began >= LEAST_S and now - self._heard >= QUIET_S
        return quiet or now - self._began >= self.most_s
