"""Runs threads as a group: when one fails, all stop and the caller gets the failure.

Invariant: ``run`` returns or raises only after every thread has ended or its grace time is over.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping

_POLL_S = 0.2


def run(threads: Mapping[str, Callable[[threading.Event], None]], stop: threading.Event, *, grace_s: float = 4) -> None:
    """Run ``threads`` until ``stop``; a thread may return early.

    Raises:
        Exception: the error of the first thread that failed; ``stop`` is set then.
    """
    failures: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def body(function: Callable[[threading.Event], None]) -> None:
        try:
            function(stop)
        except Exception as err:
            failures.put(err)

    started = [threading.Thread(target=body, args=(f,), name=name, daemon=True) for name, f in threads.items()]
    for thread in started:
        thread.start()
    failure: Exception | None = None
    while failure is None and not stop.is_set():
        try:
            failure = failures.get(timeout=_POLL_S)
        except queue.Empty:
            continue
    stop.set()
    deadline = time.monotonic() + grace_s
    for thread in started:
        thread.join(max(0.0, deadline - time.monotonic()))
    if failure is not None:
        raise failure
