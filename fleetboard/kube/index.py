"""Finds the objects of a reflector by a value inside them: slices by service, for example.

Invariant: an object that changed is reported under the values it had and under those it has. So an object
that loses a value is noticed under that value too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class Index(Generic[T, K]):
    """Maps values to the objects of a store that have them. Thread-safe."""

    def __init__(self, store: Callable[[], Mapping[str, T]], values_of: Callable[[T], frozenset[K]]) -> None:
        self._store, self._values_of = store, values_of
        self._lock = threading.Lock()
        self._values: dict[str, frozenset[K]] = {}
        self._keys: dict[K, set[str]] = {}

    def rebuild(self) -> None:
        """Forget everything and read the store."""
        with self._lock:
            self._values.clear()
            self._keys.clear()
        for key in list(self._store()):
            self.update(key)

    def values(self) -> frozenset[K]:
        """Return every value that some object has."""
        with self._lock:
            return frozenset(self._keys)

    def update(self, key: str) -> frozenset[K]:
        """Read the object under ``key`` again, or its absence; return the values it had and those it has."""
        with self._lock:
            obj = self._store().get(key)
            old = self._values.pop(key, frozenset())
            new: frozenset[K] = self._values_of(obj) if obj is not None else frozenset()
            for value in old - new:
                self._keys[value].discard(key)
                if not self._keys[value]:
                    del self._keys[value]
            for value in new:
                self._keys.setdefault(value, set()).add(key)
            if new:
                self._values[key] = new
            return old | new

    def find(self, value: K) -> list[T]:
        """Return the objects that have ``value``, in the order of their keys."""
        with self._lock:
            keys = sorted(self._keys.get(value, ()))
        store = self._store()
        return [obj for key in keys if (obj := store.get(key)) is not None]
