"""Threads of a process, signals, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from fleetboard.runtime import process


def wait(stop: threading.Event) -> None:
    assert stop.wait(60)


def test_a_set_stop_ends_it_cleanly() -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    assert process.run({"a": wait, "b": wait}, stop=stop) == 0


def test_a_signal_ends_it_cleanly_and_old_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def end(stop: threading.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        wait(stop)

    assert process.run({"a": end}) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_that_dies_stops_the_others(caplog: pytest.LogCaptureFixture) -> None:
    stopped = threading.Event()

    def other(stop: threading.Event) -> None:
        wait(stop)
        stopped.set()

    def die(stop: threading.Event) -> None:
        raise RuntimeError("no more")

    assert process.run({"other": other, "dying": die}) == 1
    assert stopped.is_set()
    record = next(record for record in caplog.records if record.message == "a thread ended unexpectedly")
    assert vars(record)["thread_name"] == "dying"
    assert record.exc_info is not None


def test_threads_may_end_by_themselves() -> None:
    assert process.run({"a": lambda stop: None, "b": lambda stop: None}) == 0


def test_a_thread_that_does_not_stop_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    stop = threading.Event()
    stop.set()
    assert process.run({"stuck": lambda stop: wait(release)}, stop=stop, grace_s=0.1) == 1
    assert "threads did not stop in time" in caplog.text
    release.set()


def test_a_whole_process_ends_on_sigterm() -> None:
    script = (
        "import sys\n"
        "from fleetboard.runtime import logs, process\n"
        "logs.configure('t')\n"
        "sys.exit(process.run({'a': lambda stop: (print('up', flush=True), stop.wait())[0]}))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    child.send_signal(signal.SIGTERM)
    _, logged = child.communicate(timeout=60)
    assert child.returncode == 0
    assert '"signal":"SIGTERM"' in logged


def test_threads_may_join_later_and_all_stop_together() -> None:
    stopped: list[str] = []

    def first(stop: threading.Event) -> None:
        wait(stop)
        stopped.append("first")

    def second(stop: threading.Event) -> None:
        stopped.append("second")
        raise RuntimeError("no more")

    with process.Crew() as crew:
        crew.start({"first": first})
        crew.start({"second": second})
        assert crew.wait() == 1
    assert sorted(stopped) == ["first", "second"]


def test_a_crew_that_nobody_waits_for_is_stopped() -> None:
    stopped = threading.Event()

    def run(stop: threading.Event) -> None:
        wait(stop)
        stopped.set()

    before = signal.getsignal(signal.SIGTERM)
    with process.Crew() as crew:
        crew.start({"run": run})
    assert stopped.is_set()
    assert signal.getsignal(signal.SIGTERM) is before
