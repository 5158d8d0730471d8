"""Follows the API and publishes the zone and its changes to the answering processes.

Invariant: the zone is published once every collection is listed completely, and only its changes afterwards. While the
API is away, the stores and the zone stay as they are.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from crossdns import metrics
from crossdns.server import feed
from crossdns.watch import index, saved
from crossdns.watch.index import ObjectKind
from crossdns.zone import encode, table
from fleetboard.kube.client import Client
from fleetboard.kube.reflector import Reflector
from fleetboard.model import names, namespaces, resource

log = logging.getLogger(__name__)

# The first change is published at once, changes that follow within this time together: an export makes several objects,
# and one update for all of them saves more than it delays.
COALESCE_S = 0.02
_SAVE_EVERY_S = 5.0
_POLL_S = 0.2


class ZoneConsumer(Protocol):
    """Takes updates of the zone: the pool of answering processes."""

    @property
    def publish(self) -> Callable[[Callable[[int], Iterable[feed.Frame]]], None]:
        """Send the frames of one update, made for its generation."""


class ZoneWatch:
    """The reflectors, and the thread that turns their events into updates."""

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        consumer: ZoneConsumer,
        imports: namespaces.Namespaces,
        zone_file: saved.ZoneFile | None = None,
    ) -> None:
        self._consumer, self._zone_file = consumer, zone_file
        self._events: queue.SimpleQueue[tuple[ObjectKind, str, float]] = queue.SimpleQueue()
        server = f"crossdns.{namespace}.svc.cluster.local"
        self._soa_server = server
        self._table = table.Table(server=server)
        # Collection, namespace, selector.
        collections: dict[ObjectKind, tuple[resource.AnyResource, str, str]] = {
            ObjectKind.SERVICE: (resource.FLEET_SERVICES, namespace, ""),
            ObjectKind.SLICE: (resource.ENDPOINT_SLICES, "", names.IMPORTED_SLICES),
            ObjectKind.PEER: (resource.PEERS, namespace, ""),
            ObjectKind.REPORT: (resource.PEER_REPORTS, namespace, ""),
            ObjectKind.NAMESPACE: (resource.NAMESPACES, "", ""),
            ObjectKind.NODE: (resource.FLEET_NODES, namespace, ""),
        }
        self._reflectors: dict[ObjectKind, Reflector[Any]] = {
            kind: Reflector(client, collection, notify=self._notify(kind), namespace=scope, selector=selector)
            for kind, (collection, scope, selector) in collections.items()
        }
        stores = index.ObjectStores(*(self._reflectors[kind] for kind in ObjectKind))
        self._index = index.ServiceIndex(stores, namespace=namespace, imports=imports)
        self._unsaved, self._saved_at = False, 0.0
        self._published_at = 0.0

    @property
    def threads(self) -> Mapping[str, Callable[[threading.Event], None]]:
        """The threads to run, by name."""
        reflecting = {f"watch {kind.value}": reflector.run for kind, reflector in self._reflectors.items()}
        return {**reflecting, "zone": self.run}

    @property
    def synced(self) -> bool:
        """Whether every collection is listed."""
        return all(reflector.synced.is_set() for reflector in self._reflectors.values())

    def run(self, stop: threading.Event) -> None:
        """Publish the zone, then every change to it, until ``stop``.

        Raises:
            WorkerDiedError: an answering process is gone.
        """
        self._restore()
        while not self.synced:
            if stop.wait(0.02):
                return
        self._first()
        while not stop.is_set():
            self._step(stop)
        self._save(at_once=True)

    def _notify(self, kind: ObjectKind) -> Callable[[str], None]:
        return lambda key: self._events.put((kind, key, time.monotonic()))

    def _restore(self) -> None:
        """Serve the saved zone until the API answers: old answers beat none."""
        if self._zone_file is None:
            return
        snapshot = self._zone_file.load()
        if snapshot is not None:
            self._publish(snapshot, whole=True)
            metrics.RESTORED.set(1)
            log.info("serving the saved zone until the API answers", extra={"services": len(snapshot) - 1})

    def _first(self) -> None:
        # The stores contain every event up to here; those that arrive meanwhile are handled afterwards.
        self._drain()
        for service in self._index.rebuild():
            self._table.put(service, self._index.records(service))
        self._publish(self._table.snapshot(), whole=True)
        metrics.RESTORED.set(0)
        self._unsaved = True
        log.info("zone is complete", extra={"services": len(self._table.services()), "names": len(self._table)})

    def _step(self, stop: threading.Event) -> None:
        """Wait for events, then publish what they change."""
        try:
            first = self._events.get(timeout=_POLL_S)
        except queue.Empty:
            self._save(at_once=False)
            return
        stop.wait(max(0.0, self._published_at + COALESCE_S - time.monotonic()))
        events = [first, *self._drain()]
        changes = [
            self._table.put(service, self._index.records(service))
            for service in sorted(self._index.concerned((kind, key) for kind, key, _ in events))
        ]
        change = table.merge(changes)
        if change:
            self._publish([change], whole=False)
            self._published_at = time.monotonic()
            metrics.UPDATE_SECONDS.observe(time.monotonic() - min(at for _, _, at in events))
            self._unsaved = True
        self._save(at_once=False)

    def _drain(self) -> list[tuple[ObjectKind, str, float]]:
        events = []
        while not self._events.empty():
            events.append(self._events.get_nowait())
        return events

    def _publish(self, changes: Iterable[table.ZoneChange], *, whole: bool) -> None:
        serial = int(time.time())
        soa = {
            encode.name(zone_name): encode.soa_content(server=self._soa_server, zone_name=zone_name, serial=serial)
            for zone_name in names.ZONES
        }
        self._consumer.publish(lambda generation: feed.frames(changes, soa=soa, generation=generation, snapshot=whole))
        metrics.UPDATES.inc()
        metrics.NAMES.set(len(self._table))

    def _save(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if self._zone_file is None or not self._unsaved or (now - self._saved_at < _SAVE_EVERY_S and not at_once):
            return
        self._zone_file.save(self._table.snapshot())
        self._unsaved, self._saved_at = False, now
