"""A member is late only if the hub has watched it stay silent."""

from __future__ import annotations

from fake_clock import FakeClock

from syncer.hub.heartbeats import Heartbeats


def test_an_unchanged_heartbeat_grows_old_by_our_clock() -> None:
    clock = FakeClock(100)
    beats = Heartbeats(clock)
    assert beats.see("c1", "a") == 0
    clock.now += 59
    assert beats.see("c1", "a") == 59
    assert beats.see("c1", "b") == 0


def test_a_heartbeat_first_seen_is_in_time_whatever_it_says() -> None:
    assert Heartbeats(FakeClock(100)).see("c1", "1999-01-01T00:00:00Z") == 0


def test_a_new_term_counts_from_zero() -> None:
    clock = FakeClock(100)
    beats = Heartbeats(clock)
    beats.see("c1", "a")
    clock.now += 600
    beats.restart()
    assert beats.see("c1", "a") == 0
