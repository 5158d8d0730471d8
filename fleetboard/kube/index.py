"""Find the objects of a reflector by something inside them: pods of a slice, slices of a service.

One invariant: an object that changed is reported under the terms it had as well as under those it has, so that what
left a term is noticed there too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Terms = frozenset[str]


class Index(Generic[T, K]):
    """Terms to objects of a store; safe to share by threads."""

    def __init__(self, store: Callable[[], Mapping[str, T]], terms_of: Callable[[T], frozenset[K]]) -> None:
        self._store, self._terms_of = store, terms_of
        self._lock = threading.Lock()
        self._terms: dict[str, frozenset[K]] = {}
        self._keys: dict[K, set[str]] = {}

    def rebuild(self) -> None:
        """Forget everything and read the store."""
        with self._lock:
            self._terms.clear()
            self._keys.clear()
        for key in list(self._store()):
            self.update(key)

    def terms(self) -> frozenset[K]:
        """Return every term that some object has."""
        with self._lock:
            return frozenset(self._keys)

    def update(self, key: str) -> frozenset[K]:
        """Take note that the object under ``key`` changed or went; return the terms it had and those it has."""
        with self._lock:
            obj = self._store().get(key)
            old = self._terms.pop(key, frozenset())
            new: frozenset[K] = self._terms_of(obj) if obj is not None else frozenset()
            for term in old - new:
                self._keys[term].discard(key)
                if not self._keys[term]:
                    del self._keys[term]
            for term in new:
                self._keys.setdefault(term, set()).add(key)
            if new:
                self._terms[key] = new
            return old | new

    def find(self, term: K) -> list[T]:
        """Return the objects that have ``term``, in the order of their keys."""
        with self._lock:
            keys = sorted(self._keys.get(term, ()))
        store = self._store()
        return [obj for key in keys if (obj := store.get(key)) is not None]
