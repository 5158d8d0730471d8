"""Who wakes whom: which work a change asks for, and what does that work.

A process builds its bus first and hands it to every part. Parts report changes with ``wake``; once all are built, the
process connects the handlers. So no part refers to one that does not exist yet, and one table shows every effect.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

Source = TypeVar("Source", bound=enum.Enum)
Work = TypeVar("Work", bound=enum.Enum)


class Bus(Generic[Source, Work]):
    """Pass keys from sources to the handlers of their work, in the order of the table, in the caller's thread."""

    def __init__(self, wakes: Mapping[Source, Sequence[Work]]) -> None:
        self._wakes = wakes
        self._handlers: dict[Work, Callable[[str], None]] = {}

    def connect(self, work: Work, handler: Callable[[str], None]) -> None:
        """Let ``handler`` do ``work``; connect every work before the first wake."""
        self._handlers[work] = handler

    def wake(self, source: Source, key: str = "") -> None:
        """Ask for all work that a change of ``key`` at ``source`` entails."""
        for work in self._wakes[source]:
            self._handlers[work](key)

    def waker(self, source: Source) -> Callable[[str], None]:
        """Return ``wake`` for one source, as a reflector's ``notify``."""
        return functools.partial(self.wake, source)
