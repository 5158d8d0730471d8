"""One lock for each container: calls of one container are serial, calls of others run at the same time.

A lock that nobody holds or waits for takes no memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator


@dataclasses.dataclass(slots=True)
class _Entry:
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    users: int = 0


class KeyedLocks:
    """Locks by name. Thread-safe."""

    def __init__(self) -> None:
        """Locks exist while they are used."""
        self._guard = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    @contextlib.contextmanager
    def hold(self, name: str, *, timeout_s: float) -> Iterator[bool]:
        """Hold the lock of ``name``; yield False without it when it isn't free in time (0: immediately)."""
        with self._guard:
            entry = self._entries.setdefault(name, _Entry())
            entry.users += 1
        held = False
        try:
            held = entry.lock.acquire(timeout=timeout_s) if timeout_s else entry.lock.acquire(blocking=False)
            yield held
        finally:
            if held:
                entry.lock.release()
            with self._guard:
                entry.users -= 1
                if not entry.users:
                    self._entries.pop(name, None)

    def users(self, name: str) -> int:
        """Count those who hold the lock of ``name`` or wait for it."""
        with self._guard:
            entry = self._entries.get(name)
            return entry.users if entry is not None else 0
