"""Mirrors the objects of a collection whose label has one of some values; the values may change meanwhile.

Invariant: for every covered value the store holds what the API server held. A change of values loses no event of those
that stay: objects of new values are listed, and the watch goes on for all values from the version it had reached.
"""

from __future__ import annotations

import logging
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from fleetboard.kube import errors, watch
from fleetboard.kube.client import Client
from fleetboard.kube.reflector import Reflector
from fleetboard.model.resource import Resource

log = logging.getLogger(__name__)
T = TypeVar("T")
Values = frozenset[str]

SELECTOR_LIMIT = 48 * 1024
"""Bytes of a selector in a URL, enough for 500 names of 63 characters. API servers accept 1 MiB (Go's limit for a
request's head); a proxy before them may accept less, and answers so."""
_TOO_LONG = (413, 414, 431)
_BAD_REQUEST = 400
_SUSPECT_BYTES = 4 * 1024
"""Some proxies answer 400 to a URL that is too long for them, from 8 KiB or less on."""


def render(label: str, values: Iterable[str]) -> str:
    """Return the selector of objects whose ``label`` has one of ``values``."""
    listed = ",".join(sorted(values))
    return f"{label} in ({listed})" if listed else f"{label},!{label}"


class Selective(Reflector[T]):
    """Mirrors the selected objects, from the first ``select`` on.

    Args:
        client: Client of the API.
        resource: The collection.
        label: The label whose values are selected.
        covered: Gets the values that are covered from now on; None stands for any value.
        selector: Selector that every object must match as well.
        options: As of the reflector.

    Attributes:
        floors: By covered value, the version of the list that brought its objects: earlier events are in that list.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource[T],
        *,
        label: str,
        covered: Callable[[Values | None], None],
        selector: str = "",
        **options: Any,
    ) -> None:
        super().__init__(client, resource, **options)
        self._label, self._base, self._on_covered = label, selector, covered
        self._chosen = threading.Event()
        # None stands for every value, when they don't fit into a URL.
        self._wanted: Values | None = frozenset()
        self._covered: Values | None = frozenset()
        self.floors: dict[str, int] = {}
        self._limit = SELECTOR_LIMIT

    def select(self, values: Values) -> None:
        """Cover these values from now on, and no others."""
        fits = len(urllib.parse.quote(render(self._label, values))) <= self._limit
        self._wanted = values if fits else None
        self._chosen.set()
        current = self._watch
        if current is not None and self._outdated():
            current.interrupt()

    def covers(self, value: str) -> bool:
        """Return whether the store holds all objects of ``value``."""
        return self.synced.is_set() and (self._covered is None or value in self._covered)

    def run(self, stop: threading.Event) -> None:
        """Mirror until ``stop``."""
        while not self._chosen.wait(0.1):
            if stop.is_set():
                return
        super().run(stop)

    def _outdated(self) -> bool:
        return self._wanted != self._covered

    def _pause(self, err: errors.KubeError, stop: threading.Event, *, spread_s: float = 0.0) -> None:
        if isinstance(err, errors.ApiError) and self._wanted is not None and self._is_too_long(err.status):
            log.warning("the selector is too long for this API, watching all values", extra={"error": str(err)})
            self._limit, self._wanted = 0, None
        super()._pause(err, stop, spread_s=spread_s)

    def _is_too_long(self, status: int) -> bool:
        wanted = self._wanted
        size = 0 if wanted is None else len(urllib.parse.quote(render(self._label, wanted)))
        return status in _TOO_LONG or (status == _BAD_REQUEST and size > _SUSPECT_BYTES)

    def _relist(self) -> str:
        wanted = self._wanted
        self._narrow(wanted)
        self._selector = self._full_selector(wanted)
        version = super()._relist()
        self.floors.clear()
        self._cover(wanted)
        return version

    def _follow(self, version: str, stop: threading.Event) -> str:
        if self._outdated():
            version = self._reselect(version)
        return super()._follow(version, stop)

    def _reselect(self, version: str) -> str:
        """Bring the store to the wanted values; return the version to follow from."""
        wanted, covered = self._wanted, self._covered
        if wanted is None or covered is None:
            return self._relist()
        added = wanted - covered
        if added:
            selector = self._full_selector(added)
            items, listed = self._client.list(self._resource, self._namespace, selector=selector)
            # The watch goes on from an earlier version than the list's: its events up to that are in the list.
            self.floors |= dict.fromkeys(added, int(listed))
            for obj in items:
                key = _labelled(obj).key
                self._store[key] = obj
                self._notify(key)
        self._narrow(wanted)
        # A value that returns later is listed again.
        self.floors = {value: floor for value, floor in self.floors.items() if value in wanted}
        for key, obj in list(self._store.items()):
            if self._value(obj) not in wanted:
                del self._store[key]
                self._notify(key)
        self._selector = self._full_selector(wanted)
        self._cover(wanted)
        return version

    def _apply(self, event: watch.Event[T]) -> None:
        if event.obj is not None and int(event.version) <= self.floors.get(self._value(event.obj), 0):
            return
        super()._apply(event)

    def _narrow(self, wanted: Values | None) -> None:
        """Stop covering values that are about to leave the store: their absence there will mean nothing."""
        if wanted is not None and self._covered is not None:
            self._covered &= wanted

    def _cover(self, wanted: Values | None) -> None:
        before, self._covered = self._covered, wanted
        self._on_covered(None if wanted is None or before is None else wanted - before)

    def _full_selector(self, values: Values | None) -> str:
        chosen = [] if values is None else [render(self._label, values)]
        return ",".join([part for part in (self._base, *chosen) if part])

    def _value(self, obj: T) -> str:
        labels: Mapping[str, str] = _labelled(obj).labels
        return labels.get(self._label, "")


def _labelled(obj: Any) -> Any:
    return obj.metadata
