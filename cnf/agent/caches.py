"""The agent's copies of the API's collections: read-only views.

Read an object again after each change: what a cache returned before may be out of date.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping

from cnf.agent import changes
from cnf.agent.wakes import AgentSource
from fleetboard.kube import client as kube_client
from fleetboard.kube import reflector
from fleetboard.model import core, fleet, names, resource

OnChange = Callable[[AgentSource, str], None]


class Caches:
    """Reflectors of what the agent reads; ``on_change`` gets what changed and the key of the object.

    A FleetNode or Peer that differs in nothing a plan reads raises no ``AgentSource.MESH``.
    """

    def __init__(self, client: kube_client.Client, namespace: str, *, node: str, on_change: OnChange) -> None:
        self._namespace, self._node, self._on_change = namespace, node, on_change
        self._node_filter = changes.ChangeFilter(changes.node_essence)
        self._peer_filter = changes.ChangeFilter(changes.peer_essence)
        self._last_zone = ""
        self._nodes = reflector.Reflector(client, resource.FLEET_NODES, namespace=namespace, notify=self._node_changed)
        self._peers = reflector.Reflector(client, resource.PEERS, namespace=namespace, notify=self._peer_changed)
        self._own_node = reflector.Reflector(
            client, resource.NODES, field_selector=f"metadata.name={node}", notify=self._own_node_changed
        )
        self._services = reflector.Reflector(
            client, resource.FLEET_SERVICES, namespace=namespace, notify=self._notify(AgentSource.SERVICE)
        )
        self._claims = reflector.Reflector(
            client, resource.CLAIMS, namespace=namespace, notify=self._notify(AgentSource.CLAIM)
        )
        self._pods = reflector.Reflector(
            client, resource.PODS, field_selector=f"spec.nodeName={node}", notify=self._notify(AgentSource.POD)
        )
        self._slices = reflector.Reflector(
            client, resource.ENDPOINT_SLICES, selector=names.IMPORTED_SLICES, notify=self._notify(AgentSource.ENDPOINTS)
        )

    def threads(self) -> Mapping[str, Callable[[threading.Event], None]]:
        """Return the threads to run, by name."""
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
        """Set once nodes and peers are listed."""
        return self._nodes.synced, self._peers.synced

    @property
    def services_synced(self) -> tuple[threading.Event, ...]:
        """Set once services, their endpoints, the peers and this node are listed."""
        return self._services.synced, self._slices.synced, self._peers.synced, self._own_node.synced

    @property
    def claims_synced(self) -> tuple[threading.Event, ...]:
        """Set once everything that blocks are planned from is listed."""
        return self._claims.synced, *self.mesh_synced

    @property
    def pods_synced(self) -> tuple[threading.Event, ...]:
        """Set once this node's pods are listed."""
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
        """Return the imported EndpointSlice of that key."""
        return self._slices.get(key)

    def node(self, name: str) -> fleet.FleetNode | None:
        """Return that node's FleetNode."""
        return self._nodes.get(f"{self._namespace}/{name}")

    def peer(self, cluster: str) -> fleet.Peer | None:
        """Return that cluster's Peer, or with ``names.HUB`` the hub's."""
        return self._peers.get(f"{self._namespace}/{cluster}")

    def _notify(self, source: AgentSource) -> Callable[[str], None]:
        return functools.partial(self._on_change, source)

    def _node_changed(self, key: str) -> None:
        if self._node_filter.differs(key, self._nodes.get(key)):
            self._on_change(AgentSource.MESH, key)
        elif key.endswith(f"/{self._node}"):
            self._on_change(AgentSource.STATUS_ONLY, key)

    def _peer_changed(self, key: str) -> None:
        if self._peer_filter.differs(key, self._peers.get(key)):
            self._on_change(AgentSource.MESH, key)

    def _own_node_changed(self, key: str) -> None:
        if self.zone != self._last_zone:
            self._last_zone = self.zone
            self._on_change(AgentSource.ZONE, key)
