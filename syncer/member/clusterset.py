"""The clusterset as the hub describes it: members, merged services, other clusters' endpoints.

Invariant: answers come from the hub once it has been listed, and from this cluster's copies until then. An object
counts as absent only if a list from the hub does not have it. ``service_keys`` alone names those of both, so that what
the hub dropped is reconciled too.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import NamedTuple

from fleetboard.kube import backoff, index, selective
from fleetboard.kube.client import Client
from fleetboard.kube.reflector import Mirrors, Reflector
from fleetboard.model import core, fleet, keys, names, resource
from fleetboard.model.addresses import Network
from fleetboard.model.keys import ServiceKey
from syncer.member.wakes import MemberBus, MemberSource
from syncer.rules import slices

log = logging.getLogger(__name__)

RETRY_CAP_S = 2.0
"""Longest pause between two attempts to reach the hub; the attempts of 250 clusters are spread over it."""


PEERS, FLEET_SERVICES = resource.PEERS.plural, resource.FLEET_SERVICES.plural


class MirrorKey(NamedTuple):
    """An object of the hub that is mirrored here: its collection (``PEERS`` or ``FLEET_SERVICES``) and its name."""

    collection: str
    name: str

    def __str__(self) -> str:
        return f"{self.collection}/{self.name}"


class Clusterset:
    """Watches the hub's clusterset and this cluster's copies of it.

    Args:
        hub: Client of the hub's API.
        local: Client of this cluster's API.
        bus: What a change wakes.
        clusterset: Name of the clusterset.
        cluster: Name of this cluster.
        namespace: Where the copies are.
    """

    def __init__(
        self,
        hub: Client,
        local: Client,
        *,
        bus: MemberBus,
        clusterset: str,
        cluster: str,
        namespace: str,
    ) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._hub_namespace = names.clusterset_namespace(clusterset)
        self._bus = bus
        self.peers = Reflector(
            hub, resource.PEERS, notify=self._peer_changed, namespace=self._hub_namespace, retry=_retry()
        )
        self.services = Reflector(
            hub, resource.FLEET_SERVICES, notify=self._merge_changed, namespace=self._hub_namespace, retry=_retry()
        )
        self.slices = selective.Selective(
            hub,
            resource.ENDPOINT_SLICES,
            label=names.LABEL_SERVICE_NAMESPACE,
            covered=self._covered,
            notify=self._slice_changed,
            namespace=self._hub_namespace,
            selector=slice_selector(cluster),
            retry=_retry(),
        )
        self.mirrored_peers = Reflector(local, resource.PEERS, notify=self._peer_changed, namespace=namespace)
        self.mirrored_services = Reflector(
            local, resource.FLEET_SERVICES, notify=self._mirrored_service_changed, namespace=namespace
        )
        self._by_service = index.Index(lambda: self.slices.store, _services_of)
        self._blocks: dict[str, tuple[Network, ...]] = {}

    @property
    def hub_reflectors(self) -> list[Mirrors]:
        """The reflectors of the hub's API."""
        return [self.peers, self.services, self.slices]

    @property
    def local_reflectors(self) -> list[Mirrors]:
        """The reflectors of this cluster's API."""
        return [self.mirrored_peers, self.mirrored_services]

    @property
    def is_synced(self) -> bool:
        """Whether the members and services were listed from the hub at least once."""
        return self.peers.synced.is_set() and self.services.synced.is_set()

    @property
    def last_contact(self) -> float:
        """Monotonic time of the hub's last answer; minus infinity before the first."""
        reflectors = [reflector for reflector in self.hub_reflectors if reflector.synced.is_set()]
        return max((reflector.last_contact for reflector in reflectors), default=-float("inf"))

    def peer(self, name: str) -> fleet.Peer | None:
        """Return a member's Peer as last read from the hub."""
        found = self.peers.get(f"{self._hub_namespace}/{name}")
        if found is not None or self.peers.synced.is_set():
            return found
        return self.mirrored_peers.get(f"{self._namespace}/{name}")

    def service(self, key: ServiceKey) -> fleet.FleetService | None:
        """Return the merge of all exports of a service, as last read from the hub."""
        found = self.services.get(f"{self._hub_namespace}/{key.dotted}")
        if found is not None or self.services.synced.is_set():
            return found
        return self.mirrored_services.get(f"{self._namespace}/{key.dotted}")

    def service_keys(self) -> list[ServiceKey]:
        """Return every service of the clusterset."""
        found = [keys.parse_dotted(name) for name in [*list(self.services.store), *list(self.mirrored_services.store)]]
        return list(dict.fromkeys(key for key in found if key is not None))

    def remote(self, key: ServiceKey) -> list[core.EndpointSlice] | None:
        """Return other clusters' slices of a service; None while the hub has not listed those of its namespace."""
        if not (self.is_synced and self.slices.covers(key.namespace)):
            return None
        return self._by_service.find(key)

    def follow(self, namespaces: frozenset[str]) -> None:
        """Watch other clusters' slices of these namespaces only, so that the hub sends each member what it needs."""
        self.slices.select(namespaces)

    def blocks(self) -> slices.Blocks:
        """Return the address blocks of every member."""
        return self._blocks

    def families(self) -> tuple[str, ...]:
        """Return the families of this cluster's fleet addresses; those of the fleet while it has no block."""
        source, own = self._cluster, self.peer(self._cluster)
        cidrs = own.status.cluster_cidrs if own is not None else []
        if not cidrs:
            source, hub = names.HUB, self.peer(names.HUB)
            cidrs = hub.status.fleet_cidrs if hub is not None else []
        versions = [network.version for network in _parse(source, cidrs)]
        return tuple(f"IPv{version}" for version in dict.fromkeys(versions))

    def original(self, key: MirrorKey) -> fleet.Peer | fleet.FleetService | None:
        """Return the hub's object that a copy is made of."""
        originals = self.peers if key.collection == PEERS else self.services
        return originals.get(f"{self._hub_namespace}/{key.name}")

    def mirrored(self, key: MirrorKey) -> fleet.Peer | fleet.FleetService | None:
        """Return this cluster's copy of the original."""
        copies = self.mirrored_peers if key.collection == PEERS else self.mirrored_services
        return copies.get(f"{self._namespace}/{key.name}")

    def _peer_changed(self, key: str) -> None:
        name = key.rpartition("/")[2]
        self._bus.wake(MemberSource.ORIGINAL, MirrorKey(PEERS, name))
        if name == self._cluster:
            self._bus.wake(MemberSource.OWN_PEER)
        peer = self.peer(name)
        blocks = tuple(_parse(name, peer.status.cluster_cidrs)) if peer is not None else ()
        if self._blocks.get(name, ()) != blocks:
            # Replaced as a whole: other threads read it.
            self._blocks = {**self._blocks, name: blocks}
            for service in self.service_keys():
                self._bus.wake(MemberSource.HUB_SERVICE, service)

    def _merge_changed(self, key: str) -> None:
        self._bus.wake(MemberSource.ORIGINAL, MirrorKey(FLEET_SERVICES, key.rpartition("/")[2]))
        service = keys.parse_dotted(key)
        if service is not None:
            self._bus.wake(MemberSource.HUB_SERVICE, service)

    def _mirrored_service_changed(self, key: str) -> None:
        if not self.services.synced.is_set():
            self._merge_changed(key)
        else:
            # The hub has been listed: the merge itself counts, not its copy.
            self._bus.wake(MemberSource.ORIGINAL, MirrorKey(FLEET_SERVICES, key.rpartition("/")[2]))

    def _covered(self, namespaces: frozenset[str] | None) -> None:
        for service in self.service_keys():
            if namespaces is None or service.namespace in namespaces:
                self._bus.wake(MemberSource.HUB_SERVICE, service)

    def _slice_changed(self, key: str) -> None:
        for service in self._by_service.update(key):
            self._bus.wake(MemberSource.HUB_SERVICE, service)


def slice_selector(cluster: str) -> str:
    """Select the slices of the clusterset that come from other members."""
    return f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY},{names.LABEL_SOURCE_CLUSTER}!={cluster}"


def _retry() -> backoff.Backoff:
    return backoff.Backoff(base_s=0.25, cap_s=RETRY_CAP_S)


def _services_of(slice_: core.EndpointSlice) -> frozenset[ServiceKey]:
    key = keys.of_exchanged(slice_)
    return frozenset() if key is None else frozenset({key})


def _parse(peer: str, cidrs: list[str]) -> list[Network]:
    parsed: list[Network] = []
    for text in cidrs:
        try:
            parsed.append(ipaddress.ip_network(text))
        except ValueError:
            log.warning("left out an invalid CIDR of a Peer", extra={"peer": peer, "cidr": text})
    return parsed
