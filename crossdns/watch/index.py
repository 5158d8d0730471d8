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


class Copy(Protocol[T_co]):
    """A reflector, as far as it is read here."""

    @property
    def store(self) -> Mapping[str, T_co]:
        """Objects by ``namespace/name``."""

    def get(self, key: str) -> T_co | None:
        """Return one object."""


class Kind(enum.Enum):
    """What an event is about."""

    SERVICE = "fleetservices"
    SLICE = "endpointslices"
    PEER = "peers"
    REPORT = "peerreports"
    NAMESPACE = "namespaces"
    NODE = "fleetnodes"


Event = tuple[Kind, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Copies:
    """Everything that names are made of."""

    services: Copy[fleet.FleetService]
    slices: Copy[core.EndpointSlice]
    peers: Copy[fleet.Peer]
    reports: Copy[fleet.PeerReport]
    namespaces: Copy[core.Namespace]
    nodes: Copy[fleet.FleetNode]


class Index:
    """Finds by service what the copies hold by object."""

    def __init__(self, copies: Copies, *, namespace: str, imports: Namespaces) -> None:
        self._copies, self._namespace, self._imports = copies, namespace, imports
        self._service_of: dict[str, ServiceKey] = {}
        self._slices_of: dict[ServiceKey, set[str]] = collections.defaultdict(set)
        self._reach = reach.Reach()

    def rebuild(self) -> set[ServiceKey]:
        """Read the copies from the beginning; return every service there is."""
        self._service_of.clear()
        self._slices_of.clear()
        self._reach = self._read_reach()
        for key in list(self._copies.slices.store):
            self._place(key)
        return {service for key in list(self._copies.services.store) if (service := keys.parse_dotted(key)) is not None}

    def concerned(self, events: Iterable[Event]) -> set[ServiceKey]:
        """Return the services whose names the events may change."""
        found: set[ServiceKey] = set()
        spaces: set[str] = set()
        reach_events = False
        for kind, key in events:
            if kind is Kind.SERVICE and (service := keys.parse_dotted(key)) is not None:
                found.add(service)
            elif kind is Kind.SLICE:
                found |= self._place(key)
            elif kind is Kind.NAMESPACE:
                spaces.add(key)
            elif kind in (Kind.PEER, Kind.REPORT, Kind.NODE):
                reach_events = True
        if spaces:
            services = map(keys.parse_dotted, list(self._copies.services.store))
            found.update(s for s in services if s is not None and s.namespace in spaces)
        return found | (self._reach_changed() if reach_events else set())

    def records(self, service: ServiceKey) -> dict[str, zone.Records]:
        """Return the names of a service; none when it, or its namespace here, doesn't exist or isn't accepted."""
        if not self._imports.accept(service.namespace):
            return {}
        merged = self._copies.services.get(f"{self._namespace}/{service.dotted}")
        if merged is None or self._copies.namespaces.get(service.namespace) is None:
            return {}
        found = [self._copies.slices.get(key) for key in sorted(self._slices_of.get(service, ()))]
        return zone.service_records(service, merged, [item for item in found if item is not None], self._reach)

    def _place(self, key: str) -> set[ServiceKey]:
        """Note whose slice that is now; return the service it was of and the one it is of."""
        item = self._copies.slices.get(key)
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
        peers, reports, nodes = self._copies.peers.store, self._copies.reports.store, self._copies.nodes.store
        return reach.read(
            list(peers.values()),
            own=[report.metadata.name for report in list(reports.values())],
            isolated=reach.is_isolated(list(nodes.values())),
        )

    def _reach_changed(self) -> set[ServiceKey]:
        """Return the services with endpoints if it changed who is reachable.

        Peers are written for every handshake and nodes for every pod.
        """
        fresh = self._read_reach()
        if fresh == self._reach:
            return set()
        self._reach = fresh
        return set(self._slices_of)
