"""Finds the services that an event concerns, and reads the names of one service from the reflectors' stores."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from crossdns.zone import zone
from fleetboard.kube import index
from fleetboard.model import core, fleet, keys, reach
from fleetboard.model.keys import ServiceKey
from fleetboard.model.namespaces import Namespaces

T_co = TypeVar("T_co", covariant=True)


class ObjectStore(Protocol[T_co]):
    """The part of a reflector that is read here."""

    @property
    def store(self) -> Mapping[str, T_co]:
        """Objects by ``namespace/name``."""

    def get(self, key: str) -> T_co | None:
        """Return one object."""


class ObjectKind(enum.Enum):
    """The kind of object that an event is about."""

    SERVICE = "fleetservices"
    SLICE = "endpointslices"
    PEER = "peers"
    REPORT = "peerreports"
    NAMESPACE = "namespaces"
    NODE = "fleetnodes"


Event = tuple[ObjectKind, str]


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectStores:
    """The stores of all objects that names are made of."""

    services: ObjectStore[fleet.FleetService]
    slices: ObjectStore[core.EndpointSlice]
    peers: ObjectStore[fleet.Peer]
    reports: ObjectStore[fleet.PeerReport]
    namespaces: ObjectStore[core.Namespace]
    nodes: ObjectStore[fleet.FleetNode]


class ServiceIndex:
    """Finds the objects of a service; the stores hold them by their own keys."""

    def __init__(self, stores: ObjectStores, *, namespace: str, imports: Namespaces) -> None:
        self._stores, self._namespace, self._imports = stores, namespace, imports
        self._slices: index.Index[core.EndpointSlice, ServiceKey] = index.Index(lambda: stores.slices.store, _services)
        self._reach = reach.Reach()

    def rebuild(self) -> set[ServiceKey]:
        """Read the stores from the beginning; return every service."""
        self._reach = self._read_reach()
        self._slices.rebuild()
        keyed = map(keys.parse_dotted, list(self._stores.services.store))
        return {service for service in keyed if service is not None}

    def concerned(self, events: Iterable[Event]) -> set[ServiceKey]:
        """Return the services whose names the events may change."""
        concerned: set[ServiceKey] = set()
        namespaces: set[str] = set()
        reach_events = False
        for kind, key in events:
            if kind is ObjectKind.SERVICE and (service := keys.parse_dotted(key)) is not None:
                concerned.add(service)
            elif kind is ObjectKind.SLICE:
                concerned |= self._slices.update(key)
            elif kind is ObjectKind.NAMESPACE:
                namespaces.add(key)
            elif kind in (ObjectKind.PEER, ObjectKind.REPORT, ObjectKind.NODE):
                reach_events = True
        if namespaces:
            services = map(keys.parse_dotted, list(self._stores.services.store))
            concerned.update(s for s in services if s is not None and s.namespace in namespaces)
        return concerned | (self._reach_changed() if reach_events else frozenset())

    def records(self, service: ServiceKey) -> dict[str, zone.Records]:
        """Return the names of a service; none unless it and its namespace here exist and imports are accepted there."""
        if not self._imports.accept(service.namespace):
            return {}
        merged = self._stores.services.get(f"{self._namespace}/{service.dotted}")
        if merged is None or self._stores.namespaces.get(service.namespace) is None:
            return {}
        return zone.service_records(service, merged, self._slices.find(service), self._reach)

    def _read_reach(self) -> reach.Reach:
        peers, reports, nodes = self._stores.peers.store, self._stores.reports.store, self._stores.nodes.store
        return reach.read(
            list(peers.values()),
            own=[report.metadata.name for report in list(reports.values())],
            isolated=reach.is_isolated(list(nodes.values())),
        )

    def _reach_changed(self) -> frozenset[ServiceKey]:
        """Return all services with endpoints when reachability changed, else none.

        Most events of nodes change something else: a node reports its free addresses every half minute.
        """
        fresh = self._read_reach()
        if fresh == self._reach:
            return frozenset()
        self._reach = fresh
        return self._slices.values()


def _services(endpoint_slice: core.EndpointSlice) -> frozenset[ServiceKey]:
    service = keys.of_imported(endpoint_slice)
    return frozenset() if service is None else frozenset({service})
