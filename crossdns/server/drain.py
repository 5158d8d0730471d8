"""Decides when a replica that must stop may end: once no client asks it any more.

A fixed time is not enough. A resolver that keeps a socket, as CoreDNS does, stays with a replica until kube-proxy
removes the connection from the kernel's table. kube-proxy does that once it knows that the replica is not ready, and
that takes time: it travels by way of kubelet, the API and a node that may be short of processors.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

LEAST_S = 8.0
"""Three readiness probes of 2 s, and the time until every node knows."""
QUIET_S = 3.0
MOST_S = 25.0
"""The pod's terminationGracePeriodSeconds less the time that ending takes."""


@dataclasses.dataclass(slots=True)
class Drain:
    """Watches the count of received messages, from the moment it is made.

    Attributes:
        received: Returns the count of messages received since the start.
        most_s: Longest drain, even while clients still ask.
    """

    received: Callable[[], int]
    most_s: float = MOST_S
    clock: Callable[[], float] = time.monotonic
    _began: float = 0.0
    _seen: int = 0
    _last_query: float = 0.0

    def __post_init__(self) -> None:
        self._began = self._last_query = self.clock()
        self._seen = self.received()

    def over(self) -> bool:
        """Return whether the replica may end; call this several times a second."""
        now, received = self.clock(), self.received()
        if received != self._seen:
            self._seen, self._last_query = received, now
        quiet = now - self._began >= LEAST_S and now - self._last_query >= QUIET_S
        return quiet or now - self._began >= self.most_s
