"""Reports to users what happened to an object, as Kubernetes Events (events.k8s.io/v1).

Invariant: ``emit`` returns at once and never raises; an Event that can't be written is dropped and counted.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Literal

from fleetboard.kube import errors, metrics
from fleetboard.kube.client import Client
from fleetboard.model import meta, names, resource, times

log = logging.getLogger(__name__)

SAME_S = 300.0
"""Equal Events within this long become one series."""
SERIES_S = 60.0
"""A series' count is written at most this often."""
QUEUE_SIZE = 256
BURST = 30
REFILL_PER_S = 0.5
_NOTE_LIMIT = 1024
_IDLE_S = 30.0

EventType = Literal["Normal", "Warning"]


def reference(kind: resource.AnyResource, metadata: meta.ObjectMeta) -> dict[str, str]:
    """Refer to an object, for ``Recorder.emit``."""
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "name": metadata.name,
        "namespace": metadata.namespace,
        "uid": metadata.uid,
    }


@dataclasses.dataclass(frozen=True, slots=True)
class _Emission:
    regarding: dict[str, str]
    reason: str
    message: str
    type: str

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.regarding.get("uid", ""), self.reason, self.message)

    @property
    def namespace(self) -> str:
        # Events about cluster-scoped objects live in the namespace default.
        return self.regarding.get("namespace") or "default"


@dataclasses.dataclass(slots=True)
class _Series:
    name: str
    count: int
    last: float
    written: float


class Recorder:
    """Writes Events from one thread of its own, which ends when there is nothing to write."""

    def __init__(self, client: Client, component: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._component, self._clock = client, component, clock
        self._instance = socket.gethostname()[:128] or component
        self._waiting: queue.Queue[_Emission] = queue.Queue(QUEUE_SIZE)
        self._lock = threading.Lock()
        self._writing = False
        # Used by the writing thread alone.
        self._series: dict[tuple[str, str, str], _Series] = {}
        self._tokens, self._refilled = float(BURST), clock()

    def emit(self, regarding: dict[str, str], *, reason: str, message: str, type_: EventType = "Normal") -> None:
        """Report ``reason`` (CamelCase) and ``message`` on an object, given by its ``reference``."""
        try:
            self._waiting.put_nowait(_Emission(dict(regarding), reason, message[:_NOTE_LIMIT], type_))
        except queue.Full:
            metrics.EVENTS_DROPPED.inc()
            return
        with self._lock:
            if not self._writing:
                self._writing = True
                threading.Thread(target=self._drain, name="write events", daemon=True).start()

    def _drain(self) -> None:
        while True:
            try:
                emission = self._waiting.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    # Under the lock: an emission after this test finds no writer and starts one.
                    if self._waiting.empty():
                        self._writing = False
                        return
                continue
            try:
                self._record(emission)
            except Exception as err:
                metrics.EVENTS_DROPPED.inc()
                known = isinstance(err, errors.KubeError)
                log.warning(
                    "could not write an event",
                    exc_info=None if known else err,
                    extra={"object": emission.regarding.get("name"), "reason": emission.reason, "error": str(err)},
                )

    def _record(self, emission: _Emission) -> None:
        now = self._clock()
        self._series = {key: series for key, series in self._series.items() if now - series.last < SAME_S}
        series = self._series.get(emission.key)
        if series is not None:
            series.count, series.last = series.count + 1, now
            if now - series.written < SERIES_S:
                return
        if not self._take_token(now):
            metrics.EVENTS_DROPPED.inc()
            return
        if series is not None and self._extend(emission, series):
            series.written = now
            return
        name = f"{emission.regarding.get('name', 'unknown')[:200]}.{uuid.uuid4().hex[:16]}"
        self._series[emission.key] = _Series(name, 1, now, now)
        self._client.create(resource.EVENTS, self._event(emission, name), emission.namespace)

    def _extend(self, emission: _Emission, series: _Series) -> bool:
        patch = {"series": {"count": max(2, series.count), "lastObservedTime": _now()}}
        try:
            self._client.merge_patch(resource.EVENTS, series.name, emission.namespace, patch)
        except errors.NotFoundError:
            return False
        return True

    def _event(self, emission: _Emission, name: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "namespace": emission.namespace},
            "eventTime": _now(),
            "reportingController": f"{names.GROUP}/{self._component}",
            "reportingInstance": self._instance,
            "action": emission.reason,
            "reason": emission.reason,
            "regarding": emission.regarding,
            "note": emission.message,
            "type": emission.type,
        }

    def _take_token(self, now: float) -> bool:
        self._tokens = min(float(BURST), self._tokens + (now - self._refilled) * REFILL_PER_S)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _now() -> str:
    return times.render_micro(datetime.datetime.now(datetime.UTC))
