"""A member is late only if we watched it say nothing."""

from __future__ import annotations

from syncer.hub.heartbeats import Heartbeats


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_unchanged_heartbeat_grows_old_by_our_clock() -> None:
    clock = Clock()
    beats = Heartbeats(clock)
    assert beats.see("c1", "a") == 0
    clock.now += 59
    assert beats.see("c1", "a") == 59
    assert beats.see("c1", "b") == 0


def test_a_heartbeat_first_seen_is_in_time_whatever_it_says() -> None:
    assert Heartbeats(Clock()).see("c1", "1999-01-01T00:00:00Z") == 0


def test_a_new_term_counts_anew() -> None:
    clock = Clock()
    beats = Heartbeats(clock)
    beats.see("c1", "a")
    clock.now += 600
    beats.restart()
    assert beats.see("c1", "a") == 0
