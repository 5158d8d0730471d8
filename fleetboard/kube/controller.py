"""The loop that reconciles keys until they succeed.

Invariant: a key that failed is retried until it succeeds, and no two workers reconcile it at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

from fleetboard.kube import errors, metrics, workqueue

log = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)

SINGLE: Final = "all"
"""The key of work that is done as a whole."""

# Longer than any one API call, so that a worker inside one ends by itself.
_JOIN_S = 20.0
REST_LIMIT_S = 2.0


class Controller(Generic[K]):
    """Calls ``reconcile`` with keys, in worker threads.

    ``reconcile`` returns the seconds after which it wants the key again, or None. It is level-triggered: it gets the
    key that may have changed, and no event.
    """

    def __init__(
        self,
        name: str,
        reconcile: Callable[[K], float | None],
        *,
        workers: int = 1,
        wait_for: Sequence[threading.Event] = (),
        rest_factor: float = 0.0,
        queue: workqueue.WorkQueue[K] | None = None,
    ) -> None:
        """After each key a worker pauses ``rest_factor`` times as long as its work took, at most ``REST_LIMIT_S``.

        This is for work that costs more the more objects there are. A stream of events can't take a whole core then,
        and events that arrive meanwhile are handled together. The pause after short work is negligible.
        """
        self._name, self._reconcile, self._workers, self._wait_for = name, reconcile, workers, wait_for
        self._rest_factor, self._stopping = rest_factor, threading.Event()
        # An empty queue is false.
        self._queue = workqueue.WorkQueue[K]() if queue is None else queue

    def enqueue(self, key: K) -> None:
        """Add ``key`` to the work queue; pass this to reflectors as ``notify``."""
        self._queue.add(key)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop``, from the moment every event of ``wait_for`` is set; call this once."""
        if not self._await(stop):
            return
        threads = [
            threading.Thread(target=self._work, name=f"{self._name} {number}", daemon=True)
            for number in range(self._workers)
        ]
        for thread in threads:
            thread.start()
        try:
            while not stop.wait(0.5):
                if not all(thread.is_alive() for thread in threads):
                    raise RuntimeError(f"a worker of controller {self._name} died")
        finally:
            self._stopping.set()
            self._queue.close()
            deadline = time.monotonic() + _JOIN_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _await(self, stop: threading.Event) -> bool:
        for event in self._wait_for:
            while not event.wait(0.1):
                if stop.is_set():
                    return False
        return True

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            began = time.monotonic()
            try:
                again_s = self._reconcile(key)
            except Exception as err:
                self._failed(key, err)
            else:
                self._queue.done(key)
                if again_s is not None:
                    self._queue.add_after(key, again_s)
                metrics.RECONCILES.labels(self._name, "done" if again_s is None else "again").inc()
            took_s = time.monotonic() - began
            metrics.RECONCILE_SECONDS.labels(self._name).observe(took_s)
            if self._rest_factor:
                self._stopping.wait(min(REST_LIMIT_S, took_s * self._rest_factor))

    def _failed(self, key: K, err: Exception) -> None:
        metrics.RECONCILES.labels(self._name, "failed").inc()
        metrics.RECONCILE_ERRORS.labels(self._name).inc()
        delay_s = self._queue.retry(key)
        self._queue.done(key, ok=False)
        # An error of the API is expected and its message is enough; any other is a defect and needs its traceback.
        expected = isinstance(err, errors.KubeError)
        log.log(
            logging.WARNING if expected else logging.ERROR,
            "could not reconcile %s %s, retrying" if expected else "defect while reconciling %s %s, retrying",
            self._name,
            key,
            exc_info=None if expected else err,
            extra={"controller": self._name, "key": str(key), "retry_s": round(delay_s, 2), "error": str(err)},
        )
