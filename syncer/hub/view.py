"""What syncer-hub knows of one clusterset: its reflectors, and which cluster an object belongs to.

Invariant: an object belongs to the cluster whose namespace it is in, whatever the object itself says.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from typing import Any

from fleetboard.kube.client import Client
from fleetboard.kube.reflector import Reflector
from fleetboard.model import core, fleet, membership, names, resource
from syncer.hub.claims import Claims
from syncer.hub.wakes import HubBus, HubSource
from syncer.rules.clusterset_settings import ClustersetSettings


class View:
    """One clusterset as the hub's API holds it."""

    def __init__(
        self, client: Client, clusterset: ClustersetSettings, bus: HubBus, *, now: Callable[[], datetime.datetime]
    ) -> None:
        self.client = client
        self._bus = bus
        self.clusterset = clusterset
        self.now = now
        namespace = clusterset.namespace
        of_clusterset = f"{names.LABEL_CLUSTERSET}={clusterset.name}"
        self.peers = Reflector(client, resource.PEERS, namespace=namespace, notify=self._peer_changed)
        self.services = Reflector(client, resource.FLEET_SERVICES, namespace=namespace, notify=self._service_changed)
        self.records = Reflector(client, resource.CONFIG_MAPS, namespace=namespace, selector=of_clusterset)
        # Of all namespaces, because members come and go; ``cluster_of`` drops those of other clustersets.
        self.reports = Reflector(client, resource.PEER_REPORTS, notify=self._report_changed)
        self.exports = Reflector(client, resource.EXPORTED_SERVICES, notify=bus.waker(HubSource.EXPORTED_SERVICE))
        self.slices = Reflector(
            client,
            resource.ENDPOINT_SLICES,
            selector=f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}",
            notify=bus.waker(HubSource.SLICE),
        )
        self.claims = Claims(client, clusterset=clusterset.name, now=now)
        self._claims = Reflector(client, resource.CLAIMS, namespace=namespace, notify=self._claim_changed)

    @property
    def reflectors(self) -> dict[str, Reflector[Any]]:
        """All reflectors; each runs in a thread."""
        return {
            "peers": self.peers,
            "reports": self.reports,
            "exports": self.exports,
            "slices": self.slices,
            "services": self.services,
            "records": self.records,
            "claims": self._claims,
        }

    @property
    def synced(self) -> list[threading.Event]:
        """One event for each reflector; decide nothing before all are set."""
        return [reflector.synced for reflector in self.reflectors.values()]

    def cluster_of(self, namespace: str) -> str | None:
        """Return the member that the namespace belongs to, if any."""
        return membership.cluster_of(self.clusterset.name, namespace)

    def peer(self, cluster: str) -> fleet.Peer | None:
        """Return the member's Peer, or the hub's own."""
        return self.peers.get(f"{self.clusterset.namespace}/{cluster}")

    def report(self, cluster: str) -> fleet.PeerReport | None:
        """Return the member's report: the one that has the member's name."""
        return self.reports.get(f"{names.member_namespace(self.clusterset.name, cluster)}/{cluster}")

    def service(self, key: str) -> fleet.FleetService | None:
        """Return the merged service of that name."""
        return self.services.get(f"{self.clusterset.namespace}/{key}")

    def record(self, name: str) -> core.ConfigMap | None:
        """Return a ConfigMap of the clusterset's namespace that this process wrote."""
        return self.records.get(f"{self.clusterset.namespace}/{name}")

    def _peer_changed(self, key: str) -> None:
        self._bus.wake(HubSource.PEER, name_of(key))

    def _report_changed(self, key: str) -> None:
        cluster = self.cluster_of(namespace_of(key))
        if cluster is not None:
            self._bus.wake(HubSource.REPORT, cluster)

    def _service_changed(self, key: str) -> None:
        self._bus.wake(HubSource.FLEET_SERVICE, name_of(key))

    def _claim_changed(self, key: str) -> None:
        self.claims.update(name_of(key), self._claims.get(key))


def name_of(key: str) -> str:
    """Return the name in ``namespace/name``."""
    return key.rpartition("/")[2]


def namespace_of(key: str) -> str:
    """Return the namespace in ``namespace/name``."""
    return key.rpartition("/")[0]
