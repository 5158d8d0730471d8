"""Run a part's threads until a signal or until one of them dies.

One invariant: no thread dies unnoticed: its traceback is logged, the others are stopped and the process ends with
status 1, so that kubelet starts it anew.
"""

from __future__ import annotations

import importlib.metadata
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# How late a ``stop`` set by someone else is noticed; a signal or a death is noticed at once.
_POLL_S = 0.2


def run(
    threads: Mapping[str, Callable[[threading.Event], None]],
    *,
    stop: threading.Event | None = None,
    grace_s: float = 10,
) -> int:
    """Run ``threads`` (name to function of the stop event) and return the process' exit status; main thread only.

    Returns 0 after SIGTERM, SIGINT, ``stop``, or once all have returned; 1 when one died or outlived ``grace_s``.
    """
    stop = stop or threading.Event()
    # A signal handler runs in the middle of anything, locks held: SimpleQueue.put alone is safe there.
    news: queue.SimpleQueue[int | str] = queue.SimpleQueue()
    died: list[str] = []

    def body(name: str, function: Callable[[threading.Event], None]) -> None:
        try:
            function(stop)
        except BaseException:
            died.append(name)
            log.critical("thread died", exc_info=True, extra={"thread_name": name})
        finally:
            news.put(name)

    previous = {number: signal.signal(number, lambda got, _frame: news.put(got)) for number in _SIGNALS}
    try:
        started = [
            threading.Thread(target=body, args=(name, function), name=name, daemon=True)
            for name, function in threads.items()
        ]
        for thread in started:
            thread.start()
        log.info("running", extra={"version": importlib.metadata.version("fleetboard")})
        _await(news, stop=stop, died=died, alive=len(started))
        stop.set()
        late = _join(started, grace_s)
    finally:
        for number, handler in previous.items():
            signal.signal(number, _restored(handler))
    return 1 if died or late else 0


def _await(news: queue.SimpleQueue[int | str], *, stop: threading.Event, died: list[str], alive: int) -> None:
    while alive and not died and not stop.is_set():
        try:
            item = news.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        if isinstance(item, int):
            log.info("stopping", extra={"signal": signal.Signals(item).name})
            return
        alive -= 1


def _join(threads: list[threading.Thread], grace_s: float) -> list[str]:
    deadline = time.monotonic() + grace_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = [thread.name for thread in threads if thread.is_alive()]
    if late:
        log.error("threads did not stop in time", extra={"threads": late, "grace_s": grace_s})
    return late


def _restored(handler: Any) -> Any:
    # None: the previous handler wasn't installed from Python.
    return signal.SIG_DFL if handler is None else handler
