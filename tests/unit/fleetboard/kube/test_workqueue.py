"""Laws of the work queue."""

from __future__ import annotations

import collections
import threading
import time

from fake_clock import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from fleetboard.kube import backoff, errors
from fleetboard.kube.workqueue import WorkQueue


def full(_low: float, high: float) -> float:
    return high


def take_all(queue: WorkQueue[str]) -> list[str]:
    taken = []
    while len(queue):
        key = queue.get()
        assert key is not None
        taken.append(key)
    return taken


def test_keys_come_once_and_in_order() -> None:
    queue = WorkQueue[str]()
    for key in "abab":
        queue.add(key)
    assert take_all(queue) == ["a", "b"]


def test_a_key_added_while_a_worker_has_it_comes_again_after_done() -> None:
    queue = WorkQueue[str]()
    queue.add("a")
    assert queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert take_all(queue) == ["a"]


def test_retries_wait_longer_each_time_up_to_the_cap() -> None:
    queue = WorkQueue[str](base_s=1, cap_s=8, jitter=full)
    assert [queue.retry("a") for _ in range(6)] == [1, 2, 4, 8, 8, 8]
    queue.done("a", ok=False)
    assert queue.retry("a") == 8
    queue.done("a")
    assert queue.retry("a") == 1


def test_of_several_delays_the_earliest_counts() -> None:
    clock = FakeClock()
    queue = WorkQueue[str](clock=clock)
    for delay_s in (30, 10, 20):
        queue.add_after("a", delay_s)
    queue.add("wake")
    assert queue.get() == "wake"
    clock.now = 10
    queue.add("b")
    assert {queue.get(), queue.get()} == {"a", "b"}
    queue.done("a")
    clock.now = 100
    queue.add("c")
    assert queue.get() == "c"
    assert len(queue) == 0


def test_a_delayed_key_wakes_a_waiting_worker() -> None:
    queue = WorkQueue[str]()
    queue.add_after("a", 0.05)
    assert queue.get() == "a"


def test_closing_wakes_every_worker() -> None:
    queue = WorkQueue[str]()
    got: list[str | None] = []
    workers = [threading.Thread(target=lambda: got.append(queue.get()), daemon=True) for _ in range(3)]
    for worker in workers:
        worker.start()
    queue.close()
    for worker in workers:
        worker.join(30)
    assert got == [None, None, None]


ACTIONS = st.lists(st.tuples(st.sampled_from(["add", "later", "get", "done", "fail", "tick"]), st.sampled_from("abc")))


@given(ACTIONS)
def test_no_key_is_out_twice_and_none_is_lost(actions: list[tuple[str, str]]) -> None:
    clock = FakeClock()
    queue = WorkQueue[str](clock=clock)
    out: set[str] = set()
    owed: set[str] = set()
    for action, key in actions:
        if action == "add":
            queue.add(key)
            owed.add(key)
        elif action == "later":
            queue.add_after(key, 5)
            owed.add(key)
        elif action == "get" and len(queue):
            taken = queue.get()
            assert taken is not None
            assert taken not in out
            out.add(taken)
            owed.discard(taken)
        elif action in ("done", "fail") and key in out:
            if action == "fail":
                queue.retry(key)
                owed.add(key)
            queue.done(key, ok=action == "done")
            out.discard(key)
        elif action == "tick":
            clock.now += 3
    for key in out:
        queue.done(key)
    clock.now += 1000
    queue.add("end")
    taken_at_last = set()
    while (key_ := queue.get()) != "end":
        taken_at_last.add(key_)
        queue.done(str(key_))
    assert owed <= taken_at_last | set(take_all(queue))


def test_threads_never_hold_one_key_together() -> None:
    queue = WorkQueue[int](base_s=0.001, cap_s=0.002)
    held: collections.Counter[int] = collections.Counter()
    clashes: list[int] = []
    lock = threading.Lock()

    def work() -> None:
        while (key := queue.get()) is not None:
            with lock:
                held[key] += 1
                if held[key] > 1:
                    clashes.append(key)
            time.sleep(0.0005)
            with lock:
                held[key] -= 1
            queue.done(key)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for worker in workers:
        worker.start()
    for number in range(600):
        queue.add(number % 5)
        queue.add_after(number % 5, 0.001)
    time.sleep(0.1)
    queue.close()
    for worker in workers:
        worker.join(30)
    assert clashes == []


@given(st.integers(1, 10_000), st.floats(0.5, 1.0))
def test_a_wait_never_exceeds_its_cap(failures: int, share: float) -> None:
    wait_s = backoff.delay(failures, base_s=0.5, cap_s=30, jitter=lambda _low, _high: share)
    assert 0.25 <= wait_s <= 30


def test_a_servers_wish_to_wait_lengthens_the_back_off_within_reason() -> None:
    retry = backoff.Backoff(jitter=full)
    assert retry.after() == 0.5
    assert retry.after(errors.ThrottledError(429, "", "", retry_after_s=9)) == 9
    assert retry.after(errors.ThrottledError(429, "", "", retry_after_s=9e9)) == backoff.RETRY_AFTER_LIMIT_S
    retry.reset()
    assert retry.after() == 0.5
