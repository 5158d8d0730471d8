"""What a node's cnf knows of the cluster: copies of the API's collections.

One invariant: these are read-only views; whoever acts on them takes a fresh look each time it is told of a change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from fleetboard.kube import client as kube_client
from fleetboard.kube import reflector
from fleetboard.model import core, fleet, names, resource

Notify = Callable[[str], None]


class Caches:
    """Reflectors of what cnf needs; each ``on_`` hears the key of an object of its kind that may have changed."""

    def __init__(
        self,
        client: kube_client.Client,
        namespace: str,
        *,
        node: str,
        on_node: Notify,
        on_own_node: Notify,
        on_peer: Notify,
        on_service: Notify,
        on_slice: Notify,
        on_claims: Notify,
        on_pods: Notify,
    ) -> None:
        self._namespace = namespace
        self._nodes = reflector.Reflector(client, resource.FLEET_NODES, namespace=namespace, notify=on_node)
        self._peers = reflector.Reflector(client, resource.PEERS, namespace=namespace, notify=on_peer)
        self._own_node = reflector.Reflector(
            client, resource.NODES, field_selector=f"metadata.name={node}", notify=on_own_node
        )
        self._services = reflector.Reflector(client, resource.FLEET_SERVICES, namespace=namespace, notify=on_service)
        self._claims = reflector.Reflector(client, resource.CLAIMS, namespace=namespace, notify=on_claims)
        self._pods = reflector.Reflector(client, resource.PODS, field_selector=f"spec.nodeName={node}", notify=on_pods)
        self._slices = reflector.Reflector(
            client,
            resource.ENDPOINT_SLICES,
            selector=names.IMPORTED_SLICES,
            notify=on_slice,
        )

    def threads(self) -> Mapping[str, Callable[[threading.Event], None]]:
        """Return what ``process.run`` shall run."""
        return {
            "watch fleetnodes": self._nodes.run,
            "watch peers": self._peers.run,
            "watch node": self._own_node.run,
            "watch fleetservices": self._services.run,
            "watch claims": self._claims.run,
            "watch endpointslices": self._slices.run,
            "watch pods": self._pods.run,
        }

    @property
    def mesh_synced(self) -> tuple[threading.Event, ...]:
        """Set once nodes and peers are known."""
        return self._nodes.synced, self._peers.synced

    @property
    def services_synced(self) -> tuple[threading.Event, ...]:
        """Set once services, their endpoints, the peers and this node's zone are known."""
        return self._services.synced, self._slices.synced, self._peers.synced, self._own_node.synced

    @property
    def claims_synced(self) -> tuple[threading.Event, ...]:
        """Set once everything that block giving needs is known."""
        return self._claims.synced, *self.mesh_synced

    @property
    def pods_synced(self) -> tuple[threading.Event, ...]:
        """Set once this node's pods are known."""
        return (self._pods.synced,)

    @property
    def pods(self) -> list[core.Pod]:
        """Every pod of this node."""
        return list(self._pods.store.values())

    @property
    def nodes(self) -> list[fleet.FleetNode]:
        """Every FleetNode."""
        return list(self._nodes.store.values())

    @property
    def peers(self) -> list[fleet.Peer]:
        """Every Peer, the hub's among them."""
        return list(self._peers.store.values())

    @property
    def service_count(self) -> int:
        """How many FleetServices there are."""
        return len(self._services.store)

    @property
    def claims(self) -> list[fleet.Claim]:
        """Every Claim of a node block."""
        return list(self._claims.store.values())

    @property
    def zone(self) -> str:
        """This node's zone, empty when it is in none."""
        return next((node.metadata.labels.get(names.LABEL_ZONE, "") for node in self._own_node.store.values()), "")

    def service(self, key: str) -> fleet.FleetService | None:
        """Return the FleetService of that key."""
        return self._services.get(key)

    def slice(self, key: str) -> core.EndpointSlice | None:
        """Return that EndpointSlice of ours."""
        return self._slices.get(key)

    def fleet_node(self, key: str) -> fleet.FleetNode | None:
        """Return the FleetNode of that key."""
        return self._nodes.get(key)

    def fleet_peer(self, key: str) -> fleet.Peer | None:
        """Return the Peer of that key."""
        return self._peers.get(key)

    def node(self, name: str) -> fleet.FleetNode | None:
        """Return that node's FleetNode."""
        return self._nodes.get(f"{self._namespace}/{name}")

    def peer(self, cluster: str) -> fleet.Peer | None:
        """Return that cluster's Peer, or with ``names.HUB`` the hub's."""
        return self._peers.get(f"{self._namespace}/{cluster}")
