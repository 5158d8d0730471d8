"""A replica that is stopping keeps answering until nobody asks it."""

from __future__ import annotations

import pytest

from crossdns.server import drain


class World:
    """A clock, and a count of queries that came in."""

    def __init__(self) -> None:
        self.now, self.queries = 100.0, 7
        self.drain = drain.Drain(lambda: self.queries, clock=lambda: self.now)

    def ends_after(self, *, asked_until_s: float, every_s: float = 0.1) -> float:
        """Ask regularly for ``asked_until_s`` seconds; return after how many seconds it ends."""
        began, asked = self.now, self.now
        while not self.drain.over():
            self.now += 0.1
            if self.now - began <= asked_until_s and self.now - asked >= every_s - 0.05:
                asked, self.queries = self.now, self.queries + 1
        return self.now - began


def test_with_nobody_asking_it_ends_when_everybody_knows() -> None:
    assert World().ends_after(asked_until_s=0) == pytest.approx(drain.LEAST_S, abs=0.2)


def test_who_goes_on_asking_is_answered() -> None:
    assert World().ends_after(asked_until_s=14) == pytest.approx(14 + drain.QUIET_S, abs=0.3)
    assert World().ends_after(asked_until_s=14, every_s=2) == pytest.approx(14 + drain.QUIET_S, abs=0.3)


def test_it_ends_in_time_also_when_they_never_stop() -> None:
    assert World().ends_after(asked_until_s=1000) == pytest.approx(drain.MOST_S, abs=0.2)
