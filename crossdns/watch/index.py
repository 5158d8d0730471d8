"""Which services an event concerns, and the names of one service, from the copies of what the API holds.

One invariant: nothing is remembered that can't be told from the copies again, except which service a slice belonged
to when it was last seen; without that a deleted slice would concern nobody.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from crossdns.zone import zone
from fleetboard.model import core, fleet, keys, reach
from fleetboard.model.keys import ServiceKey
from fleetboard.model.namespaces import Namespaces

T_co = TypeVar("T_co", covariant=True)


class ObjectStore(Protocol[T_co]):
    """A reflector, as far as it is read here."""

    @property
    def store(self) -> Mapping[str, T_co]:
        """Objects by ``namespace/name``."""

    def get(self, key: str) -> T_co | None:
        """Return one object."""


class ObjectKind(enum.Enum):
    """What an event is about."""

    SERVICE = "fleetservices"
    SLICE = "endpointslices"
    PEER = "peers"
    REPORT = "peerreports"
    NAMESPACE = "namespaces"
    NODE = "fleetnodes"


Event = tuple[ObjectKind, str]


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectStores:
    """Everything that names are made of."""

    services: ObjectStore[fleet.FleetService]
    slices: ObjectStore[core.EndpointSlice]
    peers: ObjectStore[fleet.Peer]
    reports: ObjectStore[fleet.PeerReport]
    namespaces: ObjectStore[core.Namespace]
    nodes: ObjectStore[fleet.FleetNode]


class ServiceIndex:
    """Finds by service what the copies hold by object."""

    def __init__(self, stores: ObjectStores, *, namespace: str, imports: Namespaces) -> None:
        self._stores, self._namespace, self._imports = stores, namespace, imports
        self._service_of: dict[str, ServiceKey] = {}
        self._slices_of: dict[ServiceKey, set[str]] = collections.defaultdict(set)
        self._reach = reach.Reach()

    def rebuild(self) -> set[ServiceKey]:
        """Read the copies from the beginning; return every service there is."""
        self._service_of.clear()
        self._slices_of.clear()
        self._reach = self._read_reach()
        for key in list(self._stores.slices.store):
            self._place(key)
        return {service for key in list(self._stores.services.store) if (service := keys.parse_dotted(key)) is not None}

    def concerned(self, events: Iterable[Event]) -> set[ServiceKey]:
        """Return the services whose names the events may change."""
        found: set[ServiceKey] = set()
        spaces: set[str] = set()
        reach_events = False
        for kind, key in events:
            if kind is ObjectKind.SERVICE and (service := keys.parse_dotted(key)) is not None:
                found.add(service)
            elif kind is ObjectKind.SLICE:
                found |= self._place(key)
            elif kind is ObjectKind.NAMESPACE:
                spaces.add(key)
            elif kind in (ObjectKind.PEER, ObjectKind.REPORT, ObjectKind.NODE):
                reach_events = True
        if spaces:
            services = map(keys.parse_dotted, list(self._stores.services.store))
            found.update(s for s in services if s is not None and s.namespace in spaces)
        return found | (self._reach_changed() if reach_events else set())

    def records(self, service: ServiceKey) -> dict[str, zone.Records]:
        """Return the names of a service; none when it, or its namespace here, doesn't exist or isn't accepted."""
        if not self._imports.accept(service.namespace):
            return {}
        merged = self._stores.services.get(f"{self._namespace}/{service.dotted}")
        if merged is None or self._stores.namespaces.get(service.namespace) is None:
            return {}
        found = [self._stores.slices.get(key) for key in sorted(self._slices_of.get(service, ()))]
        return zone.service_records(service, merged, [item for item in found if item is not None], self._reach)

    def _place(self, key: str) -> set[ServiceKey]:
        """Note whose slice that is now; return the service it was of and the one it is of."""
        item = self._stores.slices.get(key)
        new = None if item is None else keys.of_imported(item)
        old = self._service_of.pop(key, None)
        if old is not None and old != new:
            self._slices_of[old].discard(key)
            if not self._slices_of[old]:
                del self._slices_of[old]
        if new is not None:
            self._service_of[key] = new
            self._slices_of[new].add(key)
        return {service for service in (old, new) if service is not None}

    def _read_reach(self) -> reach.Reach:
        peers, reports, nodes = self._stores.peers.store, self._stores.reports.store, self._stores.nodes.store
        return reach.read(
            list(peers.values()),
            own=[report.metadata.name for report in list(reports.values())],
            isolated=reach.is_isolated(list(nodes.values())),
        )

    def _reach_changed(self) -> set[ServiceKey]:
        """Return the services with endpoints if it changed who is reachable.

        Most events of nodes change something else: a node counts its addresses every half minute.
        """
        fresh = self._read_reach()
        if fresh == self._reach:
            return set()
        self._reach = fresh
        return set(self._slices_of)
