"""A clock that stands still until a test sets it."""

from __future__ import annotations


class FakeClock:
    """Returns ``now``, in seconds, when called."""

    def __init__(self, start: float = 0.0) -> None:
        self.now = start

    def __call__(self) -> float:
        return self.now
