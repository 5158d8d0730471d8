"""Who wakes whom: which work a change asks for, and what does that work.

A process builds its bus first and hands it to every part. Parts report changes with ``wake``; once all are built, the
process connects the handlers. So no part refers to one that does not exist yet, and one table shows every effect.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

SourceT = TypeVar("SourceT", bound=enum.Enum)
WorkT = TypeVar("WorkT", bound=enum.Enum)


class Bus(Generic[SourceT, WorkT]):
    """Passes keys from sources to the handlers of their work, in the order of the table, in the caller's thread.

    What a key is depends on the source: the source's own words say it, and the handlers of its work expect it.
    """

    def __init__(self, wakes: Mapping[SourceT, Sequence[WorkT]]) -> None:
        self._wakes = wakes
        self._handlers: dict[WorkT, Callable[[Any], None]] = {}

    def connect(self, work: WorkT, handler: Callable[[Any], None]) -> None:
        """Let ``handler`` do ``work``; connect every work before the first wake."""
        self._handlers[work] = handler

    def wake(self, source: SourceT, key: object = None) -> None:
        """Ask for all work that a change of ``key`` at ``source`` entails."""
        for work in self._wakes[source]:
            self._handlers[work](key)

    def waker(self, source: SourceT) -> Callable[[object], None]:
        """Return ``wake`` for one source, as a reflector's ``notify``."""
        return functools.partial(self.wake, source)
