"""One watch: a stream of changes to a collection that ends sooner or later.

Invariant: the iteration yields every change in the server's order, with the version it leads to. A cut stream raises an
error; an end by the server ends the iteration.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import urllib3

from fleetboard.kube import encoding, errors
from fleetboard.model.resource import Resource

T = TypeVar("T")
_CHUNK = 64 * 1024


class ChangeType(enum.Enum):
    """What happened to an object."""

    SET = "set"
    DELETED = "deleted"
    BOOKMARK = "bookmark"


@dataclasses.dataclass(frozen=True, slots=True)
class Event(Generic[T]):
    """One change; ``obj`` is None in a BOOKMARK, ``version`` is the resourceVersion after the change."""

    change: ChangeType
    key: str
    obj: T | None
    version: str


class Watch(Generic[T]):
    """An iterable of events; iterate once.

    ``translated_errors`` turns urllib3's errors into those of ``fleetboard.kube``.
    """

    def __init__(
        self,
        resource: Resource[T],
        response: urllib3.HTTPResponse,
        *,
        translated_errors: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._resource, self._response, self._translated_errors = resource, response, translated_errors
        self._interrupted = False

    def __iter__(self) -> Iterator[Event[T]]:
        try:
            for line in self._lines():
                yield self._event(line)
        finally:
            self._response.close()

    def interrupt(self) -> None:
        """End the iteration from another thread, even while it waits for the server."""
        self._interrupted = True
        # It has ended already, or its connection is back in the pool.
        with contextlib.suppress(ValueError, RuntimeError, OSError):
            self._response.shutdown()

    def _lines(self) -> Iterator[bytes]:
        tail = b""
        while not self._interrupted:
            chunk = self._read()
            if not chunk:
                return
            *whole, tail = (tail + chunk).split(b"\n")
            yield from (line for line in whole if line)

    def _read(self) -> bytes:
        try:
            with self._translated_errors():
                return self._response.read1(_CHUNK, decode_content=True)
        except (errors.UnreachableError, ValueError):
            # After a shutdown the reader gets an error of whichever layer it is in.
            if self._interrupted:
                return b""
            raise

    def _event(self, line: bytes) -> Event[T]:
        raw = encoding.decode_event(line)
        if raw.type == "ERROR":
            raise errors.from_event(bytes(raw.object), request=f"watch {self._resource.plural}")
        skeleton = encoding.decode_skeleton(raw.object)
        version = skeleton.metadata.resource_version
        if raw.type == "BOOKMARK":
            return Event(ChangeType.BOOKMARK, "", None, version)
        obj = encoding.decode_or_none(self._resource, raw.object)
        # An object that can't be decoded counts as absent, as in a list.
        change = ChangeType.DELETED if obj is None or raw.type == "DELETED" else ChangeType.SET
        return Event(change, skeleton.key, obj, version)
