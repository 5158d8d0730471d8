"""Mirrors one collection of the API in memory and reports which keys change.

Invariant: ``store`` is what the API server held at some moment, and every key whose object differs from an earlier
moment is reported to ``notify`` after the store changed.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from fleetboard.kube import backoff, errors, metrics, watch
from fleetboard.kube.client import Client
from fleetboard.model.resource import Resource

log = logging.getLogger(__name__)
T = TypeVar("T")

WATCH_SECONDS = (240, 360)
# After a compaction every watcher in the fleet lists again: they spread over this time.
RELIST_SPREAD_S = 2.0
_SHORT_S = 1.0


def _ignore(_key: str) -> None:
    """Do nothing."""


class Mirrors(Protocol):
    """A reflector of any type, for code that runs it and reads its state."""

    @property
    def synced(self) -> threading.Event:
        """Set once the store holds a complete list."""

    @property
    def last_contact(self) -> float:
        """Monotonic time of the API's last answer."""

    def run(self, stop: threading.Event) -> None:
        """Mirror until ``stop``."""

    def renew(self) -> None:
        """Ask for a new watch from where this one is."""


class Reflector(Generic[T]):
    """Mirrors a collection.

    Attributes:
        store: Key (``metadata.key``) to object. A list replaces it and events change it in place: iterate over
            ``list(store.values())``, and read the attribute again each time.
        synced: Set once the store holds a complete list.
        last_contact: Monotonic time of the API's last answer.
        seen: The newest version that a list or the watch had reached.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource[T],
        *,
        notify: Callable[[str], None] = _ignore,
        namespace: str = "",
        selector: str = "",
        field_selector: str = "",
        retry: backoff.Backoff | None = None,
    ) -> None:
        self._client, self._resource, self._notify = client, resource, notify
        self._namespace, self._selector, self._field_selector = namespace, selector, field_selector
        self._store: dict[str, T] = {}
        self._backoff = retry or backoff.Backoff()
        self._watch: watch.Watch[T] | None = None
        self._writing = threading.Lock()
        self.seen = 0
        self.synced = threading.Event()
        self.last_contact = time.monotonic()

    @property
    def store(self) -> Mapping[str, T]:
        """The present state of the mirror."""
        return self._store

    def get(self, key: str) -> T | None:
        """Return the object of that key, if there is one."""
        return self._store.get(key)

    def remember(self, obj: T) -> None:
        """Store the object that a write returned, so that decisions before its watch event are based on it.

        Only for objects that the selector selects. Does nothing when the watch is already past that version.
        """
        key = _meta(obj).key
        with self._writing:
            if _version(obj) <= max(self.seen, _version(self._store.get(key))):
                return
            self._store[key] = obj
        self._notify(key)

    def renew(self) -> None:
        """Ask for a new watch from the present version: after an outage the old one may be silent for long.

        Where only one direction was cut, the server's events still arrive once, unacknowledged, and keep the connection
        alive. Later ones wait for the server's retransmission timer, which doubles each time.
        """
        current = self._watch
        if current is not None:
            current.interrupt()

    def run(self, stop: threading.Event) -> None:
        """Mirror until ``stop``; errors of the API are logged and retried forever."""
        done = threading.Event()
        waker = threading.Thread(target=self._interrupt, args=(stop, done), name="interrupt a watch", daemon=True)
        waker.start()
        try:
            self._mirror(stop)
        finally:
            done.set()

    def _interrupt(self, stop: threading.Event, done: threading.Event) -> None:
        """Wake a reader that waits for events when ``stop`` is set; only closing its socket does so."""
        while not stop.wait(5.0):
            if done.is_set():
                return
        current = self._watch
        if current is not None:
            current.interrupt()

    def _mirror(self, stop: threading.Event) -> None:
        version = ""
        while not stop.is_set():
            try:
                version = version or self._relist()
                version = self._follow(version, stop)
            except errors.GoneError as err:
                version = ""
                self._pause(err, stop, spread_s=random.uniform(0, RELIST_SPREAD_S))
            except _Cut as cut:
                version = cut.version
                self._pause(cut.err, stop)
            except errors.KubeError as err:
                self._pause(err, stop)

    def _relist(self) -> str:
        items, version = self._client.list(
            self._resource, self._namespace, selector=self._selector, field_selector=self._field_selector
        )
        self.last_contact = time.monotonic()
        fresh = {_meta(obj).key: obj for obj in items}
        # Readers see the old or the new dict, never a mix.
        with self._writing:
            stale, self._store, self.seen = self._store, fresh, int(version or 0)
        for key in stale.keys() | fresh.keys():
            if _version(stale.get(key)) != _version(fresh.get(key)):
                self._notify(key)
        self.synced.set()
        return version

    def _follow(self, version: str, stop: threading.Event) -> str:
        """Apply one watch's events and return the version they lead to."""
        began = time.monotonic()
        events = 0
        try:
            self._watch = self._client.watch(
                self._resource,
                self._namespace,
                version=version,
                seconds=random.randint(*WATCH_SECONDS),
                selector=self._selector,
                field_selector=self._field_selector,
            )
            self.last_contact = time.monotonic()
            if stop.is_set() or self._outdated():  # while connecting, when there was no watch to interrupt
                self._watch.interrupt()
            for event in self._watch:
                self.last_contact = time.monotonic()
                self._apply(event)
                version = event.version or version
                events += 1
                self._backoff.reset()
        except errors.GoneError:
            raise
        except errors.KubeError as err:
            raise _Cut(version, err) from err
        if not events and time.monotonic() - began < _SHORT_S and not stop.is_set() and not self._outdated():
            # Something on the way to the server ends watches at once: don't spin.
            raise _Cut(version, errors.UnreachableError(f"{self._client.server}: the watch ended at once"))
        return version

    def _outdated(self) -> bool:
        """Return whether a watch of another selector is wanted."""
        return False

    def _apply(self, event: watch.Event[T]) -> None:
        with self._writing:
            at = int(event.version or 0)
            self.seen = max(self.seen, at)
            if event.change is watch.ChangeType.BOOKMARK or 0 < at <= _version(self._store.get(event.key)):
                return  # nothing changed, or ``remember`` stored it already
            if event.change is watch.ChangeType.DELETED or event.obj is None:
                self._store.pop(event.key, None)
            else:
                self._store[event.key] = event.obj
        self._notify(event.key)

    def _pause(self, err: errors.KubeError, stop: threading.Event, *, spread_s: float = 0.0) -> None:
        if stop.is_set():
            return
        metrics.WATCH_RESTARTS.labels(self._resource.plural).inc()
        delay_s = self._backoff.after(err) + spread_s
        log.warning(
            "list or watch failed, retrying",
            extra={"resource": self._resource.plural, "retry_s": round(delay_s, 1), "error": str(err)},
        )
        stop.wait(delay_s)


class _Cut(Exception):  # noqa: N818 - carries the version that a watch reached; never leaves this module
    def __init__(self, version: str, err: errors.KubeError) -> None:
        super().__init__(version)
        self.version, self.err = version, err


def _meta(obj: Any) -> Any:
    return obj.metadata


def _version(obj: Any) -> int:
    """Return an object's version, 0 for None: comparable within one collection (KEP-5504)."""
    return 0 if obj is None else int(obj.metadata.resource_version or 0)
