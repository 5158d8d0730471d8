"""The node's network as calls see it: the current one, and waiting for a change.

Calls that wait for an address are counted, so that the node asks for as many blocks as it will use at once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from cnf.attach.node_network.network import NodeNetwork

_TICK_S = 0.2
"""How often a waiting call checks ``cancelled``."""


class Supply:
    """Holds the current NodeNetwork. Thread-safe."""

    def __init__(self) -> None:
        """There is no network until the first ``replace``."""
        self._changed = threading.Condition()
        self._network: NodeNetwork | None = None
        self._generation = 0
        self._waiting = 0

    @property
    def network(self) -> NodeNetwork | None:
        """The current network; None before the first ``replace``."""
        return self._network

    @property
    def generation(self) -> int:
        """Counts changes. Read it before ``network``, and pass it to ``wait``."""
        return self._generation

    @property
    def waiting(self) -> int:
        """Counts the calls that wait for an address."""
        return self._waiting

    @contextlib.contextmanager
    def count_waiting(self) -> Iterator[None]:
        """Count the caller as waiting."""
        with self._changed:
            self._waiting += 1
        try:
            yield
        finally:
            with self._changed:
                self._waiting -= 1

    def replace(self, network: NodeNetwork) -> None:
        """Replace the network and wake all that wait."""
        with self._changed:
            self._network = network
            self._generation += 1
            self._changed.notify_all()

    def wait(self, generation: int, *, deadline: float, cancelled: Callable[[], bool]) -> None:
        """Wait for a change since ``generation``, at most until ``deadline`` (monotonic) or until cancelled."""
        with self._changed:
            while self._generation == generation:
                left = deadline - time.monotonic()
                if left <= 0 or cancelled():
                    break
                self._changed.wait(min(left, _TICK_S))
