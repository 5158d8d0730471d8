"""The controller's loop."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator

import prometheus_client
import pytest
from polling import wait_until

from fleetboard.kube import errors, metrics
from fleetboard.kube.controller import REST_LIMIT_S, Controller
from fleetboard.kube.workqueue import WorkQueue

Start = Callable[[Controller[str]], threading.Event]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[tuple[threading.Event, threading.Thread]] = []

    def begin(controller: Controller[str]) -> threading.Event:
        stop = threading.Event()
        thread = threading.Thread(target=controller.run, args=(stop,), daemon=True)
        running.append((stop, thread))
        thread.start()
        return stop

    yield begin
    for stop, thread in running:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def test_it_works_on_keys_only_once_what_it_waits_for_is_there(start: Start) -> None:
    worked: list[str] = []
    synced = threading.Event()
    controller = Controller("c", worked.append, wait_for=[synced])
    controller.enqueue("a")
    start(controller)
    time.sleep(0.2)
    assert worked == []
    synced.set()
    wait_until(lambda: worked == ["a"])


def test_it_stops_while_it_waits(start: Start) -> None:
    controller: Controller[str] = Controller("c", lambda key: None, wait_for=[threading.Event()])
    start(controller).set()


def test_a_failed_key_is_tried_until_it_succeeds(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Exception] = [errors.UnreachableError("away"), ValueError("a fault")]
    worked: list[str] = []

    def reconcile(key: str) -> float | None:
        if failures:
            raise failures.pop(0)
        worked.append(key)
        return None

    registry = prometheus_client.CollectorRegistry()
    metrics.register(registry)
    controller = Controller("retrying", reconcile, queue=WorkQueue[str](base_s=0.01))
    controller.enqueue("a")
    with caplog.at_level(logging.WARNING):
        start(controller)
        wait_until(lambda: worked == ["a"])
    expected, fault = caplog.records
    assert (expected.levelname, expected.exc_info) == ("WARNING", None)
    assert fault.levelname == "ERROR"
    assert fault.exc_info is not None
    wait_until(lambda: sample(registry, "fleetboard_reconcile_total", controller="retrying", result="done") == 1)
    assert sample(registry, "fleetboard_reconcile_total", controller="retrying", result="failed") == 2
    assert sample(registry, "fleetboard_reconcile_errors_total", controller="retrying") == 2
    wait_until(lambda: sample(registry, "fleetboard_reconcile_seconds_count", controller="retrying") == 3)


def sample(registry: prometheus_client.CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_a_key_comes_again_after_the_time_it_asked_for(start: Start) -> None:
    times: list[float] = []

    def reconcile(key: str) -> float | None:
        times.append(time.monotonic())
        return 0.1 if len(times) < 3 else None

    controller = Controller("c", reconcile)
    controller.enqueue("a")
    start(controller)
    wait_until(lambda: len(times) == 3)
    assert times[1] - times[0] >= 0.1
    time.sleep(0.2)
    assert len(times) == 3


def test_workers_share_keys_and_never_one_key(start: Start) -> None:
    busy: set[str] = set()
    clashes: list[str] = []
    together = threading.Event()
    lock = threading.Lock()

    def reconcile(key: str) -> None:
        with lock:
            if key in busy:
                clashes.append(key)
            busy.add(key)
            if len(busy) > 1:
                together.set()
        together.wait(30)  # for another worker, whichever comes first
        time.sleep(0.01)
        with lock:
            busy.discard(key)

    controller = Controller("c", reconcile, workers=3)
    start(controller)
    for number in range(60):
        controller.enqueue(f"k{number % 4}")
        time.sleep(0.002)
    assert together.wait(30)
    wait_until(lambda: not busy)
    assert clashes == []


def test_stopping_waits_for_the_key_in_hand(start: Start) -> None:
    begun, finished = threading.Event(), threading.Event()

    def reconcile(key: str) -> None:
        begun.set()
        time.sleep(0.3)
        finished.set()

    controller = Controller("c", reconcile)
    controller.enqueue("a")
    stop = threading.Event()
    thread = threading.Thread(target=controller.run, args=(stop,), daemon=True)
    thread.start()
    assert begun.wait(30)
    stop.set()
    thread.join(30)
    assert finished.is_set()


def test_the_age_of_the_last_contact_is_shown() -> None:
    now = [100.0]
    contacts = metrics.Contacts(clock=lambda: now[0])
    registry = prometheus_client.CollectorRegistry()
    registry.register(contacts)
    contacts.note("https://one")
    now[0] = 107.0
    assert sample(registry, "fleetboard_kube_last_contact_seconds", server="https://one") == 7


def test_costly_work_under_a_stream_of_events_leaves_the_core_to_others(start: Start) -> None:
    worked: list[tuple[float, float]] = []

    def work(_key: str) -> None:
        began = time.monotonic()
        time.sleep(0.02)
        worked.append((began, time.monotonic()))

    controller = Controller("c", work, rest_factor=4.0)
    start(controller)

    def is_done() -> bool:
        controller.enqueue("a")
        return len(worked) >= 5

    wait_until(is_done)
    for (began, ended), (again, _) in itertools.pairwise(worked):
        assert again - ended >= min(REST_LIMIT_S, 4.0 * (ended - began)), "of each piece of work's own time"


def test_the_queue_that_is_given_is_the_one_worked_on(start: Start) -> None:
    queue, seen = WorkQueue[str](), threading.Event()

    def reconcile(_key: str) -> None:
        seen.set()

    start(Controller("given", reconcile, queue=queue))
    queue.add("a")
    assert seen.wait(30)
