"""Keeps the node's firewall and virtual addresses as the clusterset's services say.

One invariant: until everything it depends on is known, the rules that a predecessor left stay in force.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable

from cnf.agent.caches import Caches
from cnf.tunnel.plan import parse
from cnf.vip import errors as vip_errors
from cnf.vip import plan as vip_plan
from cnf.vip import refusals
from cnf.vip import shares as vip_shares
from cnf.vip.firewall import NodeFirewall
from cnf.vip.writer import FirewallWriter
from fleetboard.model import names

log = logging.getLogger(__name__)

AGAIN_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class _MeshInputs:
    """What nodes and peers say: the firewall, and where the node stands."""

    firewall: NodeFirewall
    view: vip_plan.ClustersetView
    isolated: bool


class ServiceController:
    """Reconciles ``FirewallWriter`` with the caches.

    ``isolated`` tells whether this node's own way to the hub is dead. Whoever hears of a change notes it, and then asks
    for ``reconcile``.
    """

    def __init__(
        self,
        *,
        node: str,
        cluster: str,
        caches: Caches,
        firewall_writer: FirewallWriter,
        isolated: Callable[[], bool],
    ) -> None:
        self._node, self._cluster, self._caches, self._firewall_writer = node, cluster, caches, firewall_writer
        self._isolated = isolated
        self._lock = threading.Lock()
        self._services: set[str] = set()
        self._slices: set[str] = set()
        self._mesh_changed = True
        self._mesh: _MeshInputs | None = None
        self._planner = vip_shares.Planner()
        self.dropped: dict[str, int] = {}
        """Endpoints outside their cluster's blocks, by cluster, as of the last look."""
        self.services = 0
        self.ready = False
        self._firewall_ensured = False

    def mark_service(self, key: str) -> None:
        """Remember that this FleetService may have changed."""
        with self._lock:
            self._services.add(key)

    def mark_slice(self, key: str) -> None:
        """Remember that this EndpointSlice may have changed."""
        with self._lock:
            self._slices.add(key)

    def mark_mesh(self) -> None:
        """Remember that nodes or peers may have changed, or this node's zone."""
        self._mesh_changed = True

    def ensure_firewall(self) -> None:
        """Put the firewall in force before the first packet may come, services known or not.

        Raises:
            VipError: the kernel doesn't hold it; call again, and let nothing in before.
        """
        mesh = self._read_mesh()
        if not self._firewall_ensured and mesh is not None:
            self._firewall_writer.set_base(mesh.firewall)
            self._firewall_ensured = True

    def reconcile(self, _key: str) -> float:
        """Plan anew what changed and write that."""
        mesh = self._current_mesh()
        if mesh is None:
            return AGAIN_S
        # First and by itself: whatever is wrong with a service, the firewall stands.
        try:
            self._firewall_writer.set_base(mesh.firewall)
        except vip_errors.VipError as err:
            # It may be the former services that the kernel has no memory for; ``sync`` writes the firewall as well.
            log.warning("the firewall is not in force yet", extra={"error": str(err)})
        with self._lock:
            services, self._services = self._services, set()
            slices, self._slices = self._slices, set()
        for key in services:
            self._planner.put_service(key, self._caches.service(key))
        for key in slices:
            self._planner.put_slice(key, self._caches.slice(key))
        shares = self._planner.shares(mesh.view)
        self._firewall_writer.sync(shares)
        dropped = vip_shares.count_dropped(shares)
        if dropped != self.dropped and dropped:
            log.warning("endpoints outside their cluster's blocks are left out", extra={"dropped": dropped})
        self.dropped, self.services, self.ready = dropped, self._caches.service_count, True
        return min(AGAIN_S, self._firewall_writer.refused.wait_s)

    @property
    def refused(self) -> refusals.Refusals:
        """The services that the kernel refuses."""
        return self._firewall_writer.refused

    def _current_mesh(self) -> _MeshInputs | None:
        """Return the mesh, read anew only when something about it changed: that costs all nodes and peers."""
        mesh = self._mesh
        if mesh is None or self._mesh_changed or mesh.isolated != self._isolated():
            self._mesh_changed = False
            try:
                self._mesh = self._read_mesh()
            except Exception:
                self._mesh_changed = True  # or the next try would take the former mesh for this one
                raise
        return self._mesh

    def _read_mesh(self) -> _MeshInputs | None:
        """Return None while one of the objects that say so is not there."""
        hub, own = self._caches.peer(names.HUB), self._caches.peer(self._cluster)
        node = self._caches.node(self._node)
        if hub is None or own is None or node is None or not node.spec.blocks:
            return None
        blocks = parse.parse_networks(node.spec.blocks, field="blocks")
        nodes, _ = parse.parse_nodes(self._caches.nodes)
        isolated = self._isolated()
        firewall = NodeFirewall(
            fleet=parse.parse_networks(hub.status.fleet_cidrs, field="fleetCIDRs"),
            vips=parse.parse_networks(hub.status.vip_cidrs, field="vipCIDRs"),
            own=parse.parse_networks(own.status.cluster_cidrs, field="clusterCIDRs"),
            node_addresses=tuple({block.version: block.network_address for block in reversed(blocks)}.values()),
            other_nodes=tuple(
                # In one order: every other list of the nodes would be rules to write.
                sorted(
                    (address for other in nodes if other.name != self._node for address in other.addresses),
                    key=lambda address: (address.version, int(address)),
                )
            ),
        )
        view = vip_plan.view_clusterset(
            self._caches.peers, cluster=self._cluster, local=blocks, zone=self._caches.zone, isolated=isolated
        )
        if view.malformed and (self._mesh is None or self._mesh.view.malformed != view.malformed):
            malformed = sorted(view.malformed)
            log.warning("the endpoints of clusters with malformed blocks are left out", extra={"clusters": malformed})
        return _MeshInputs(firewall, view, isolated)
