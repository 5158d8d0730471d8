"""Runs a part's threads until a signal, or until one of them dies.

Invariant: no thread dies unnoticed. Its traceback is logged, the others are stopped and the process ends with status 1,
so that kubelet restarts it.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
import types
from collections.abc import Callable, Mapping
from typing import Any

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# How late a ``stop`` set elsewhere is noticed; a signal or a death is noticed at once.
_POLL_S = 0.2

Threads = Mapping[str, Callable[[threading.Event], None]]


class Crew:
    """Threads that live and die together; some may join later. For the main thread alone: it handles the signals.

    To leave the ``with`` block before ``wait`` stops and joins the threads.
    """

    def __init__(self, *, stop: threading.Event | None = None, grace_s: float = 10) -> None:
        self._stop = stop or threading.Event()
        self._grace_s = grace_s
        # A signal handler may run while locks are held: only SimpleQueue.put is safe there.
        self._news: queue.SimpleQueue[int | str] = queue.SimpleQueue()
        self._started: list[threading.Thread] = []
        self._died: list[str] = []
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Crew:
        self._previous = {n: signal.signal(n, lambda got, _frame: self._news.put(got)) for n in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        try:
            self._end()
        finally:
            for number, handler in self._previous.items():
                signal.signal(number, _restored(handler))

    def start(self, threads: Threads) -> None:
        """Run ``threads`` beside those that run already."""
        started = [
            threading.Thread(target=self._body, args=(name, function), name=name, daemon=True)
            for name, function in threads.items()
        ]
        self._started += started
        for thread in started:
            thread.start()

    def wait(self) -> int:
        """Wait for a signal, ``stop``, or a thread's death; return the process' exit status as ``run`` does."""
        self._await(alive=len(self._started))
        return 1 if self._end() or self._died else 0

    def _body(self, name: str, function: Callable[[threading.Event], None]) -> None:
        try:
            function(self._stop)
        except BaseException:
            self._died.append(name)
            log.critical("a thread ended unexpectedly", exc_info=True, extra={"thread_name": name})
        finally:
            self._news.put(name)

    def _await(self, *, alive: int) -> None:
        while alive and not self._died and not self._stop.is_set():
            try:
                item = self._news.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if isinstance(item, int):
                log.info("stopping", extra={"signal": signal.Signals(item).name})
                return
            alive -= 1

    def _end(self) -> list[str]:
        """Stop all threads; return the names of those that run longer than ``grace_s``."""
        self._stop.set()
        deadline = time.monotonic() + self._grace_s
        for thread in self._started:
            thread.join(max(0.0, deadline - time.monotonic()))
        late = [thread.name for thread in self._started if thread.is_alive()]
        if late:
            log.error("threads did not stop in time", extra={"threads": late, "grace_s": self._grace_s})
        self._started.clear()
        return late


def run(threads: Threads, *, stop: threading.Event | None = None, grace_s: float = 10) -> int:
    """Run ``threads`` (name to function of the stop event) and return the process' exit status; main thread only.

    Returns 0 after SIGTERM, SIGINT, ``stop``, or once all have returned; 1 when one died or outlived ``grace_s``.
    """
    # Imported here: it would be a tenth of the modules that load before a crew starts.
    import importlib.metadata

    with Crew(stop=stop, grace_s=grace_s) as crew:
        crew.start(threads)
        log.info("running", extra={"version": importlib.metadata.version("fleetboard")})
        return crew.wait()


def _restored(handler: Any) -> Any:
    # None: the previous handler wasn't installed from Python.
    return signal.SIG_DFL if handler is None else handler
