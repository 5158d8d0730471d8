"""Reconciles the node's firewall and virtual addresses with the clusterset's services.

Invariant: until everything it depends on is known, the rules that a former process left stay in force.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping

from cnf.agent.caches import Caches
from cnf.agent.wakes import AgentSource, ChangeRecorder
from cnf.tunnel.plan import parse
from cnf.vip import errors as vip_errors
from cnf.vip import plan as vip_plan
from cnf.vip import refusals
from cnf.vip import shares as vip_shares
from cnf.vip.firewall import NodeFirewall
from cnf.vip.writer import FirewallWriter
from fleetboard.model import addresses, names

log = logging.getLogger(__name__)

RESYNC_S = 60.0
"""When to look again without an event. Every input raises one; a look compares each share by identity."""


class PendingChanges:
    """What changed since the last plan. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._services: set[str] = set()
        self._slices: set[str] = set()
        self.mesh = True
        """Whether nodes, peers or this node's zone may have changed."""

    @property
    def recorders(self) -> Mapping[AgentSource, ChangeRecorder]:
        """What records each event."""
        return {
            AgentSource.MESH: self._record_mesh,
            AgentSource.ZONE: self._record_mesh,
            AgentSource.SERVICE: self._record_service,
            AgentSource.ENDPOINTS: self._record_slice,
        }

    def take(self) -> tuple[set[str], set[str]]:
        """Return the keys of the FleetServices and EndpointSlices that may have changed, and forget them."""
        with self._lock:
            services, self._services = self._services, set()
            slices, self._slices = self._slices, set()
        return services, slices

    def _record_mesh(self, _key: str) -> None:
        self.mesh = True

    def _record_service(self, key: str) -> None:
        with self._lock:
            self._services.add(key)

    def _record_slice(self, key: str) -> None:
        with self._lock:
            self._slices.add(key)


@dataclasses.dataclass(frozen=True, slots=True)
class _MeshInputs:
    """What is read from nodes and peers."""

    firewall: NodeFirewall
    view: vip_plan.ClustersetView
    isolated: bool


class ServiceController:
    """Reconciles ``FirewallWriter`` with the caches.

    ``isolated`` says whether the relay doesn't answer this node's probes.
    """

    def __init__(
        self,
        *,
        node: str,
        cluster: str,
        caches: Caches,
        pending: PendingChanges,
        firewall_writer: FirewallWriter,
        isolated: Callable[[], bool],
    ) -> None:
        self._node, self._cluster, self._caches, self._firewall_writer = node, cluster, caches, firewall_writer
        self._pending, self._isolated = pending, isolated
        self._mesh: _MeshInputs | None = None
        self._planner = vip_shares.Planner()
        self.dropped: dict[str, int] = {}
        """Endpoints outside their cluster's blocks, by cluster, as of the last plan."""
        self.service_count = 0
        self.ready = False
        self._firewall_ensured = False

    def ensure_firewall(self) -> None:
        """Put the firewall in force before the first packet arrives, whether or not the services are known.

        Raises:
            VipError: the kernel doesn't hold it; call again, and let nothing in before.
        """
        mesh = self._read_mesh()
        if not self._firewall_ensured and mesh is not None:
            self._firewall_writer.set_base(mesh.firewall)
            self._firewall_ensured = True

    def reconcile(self, _key: str) -> float:
        """Plan what changed, write it, and return the seconds until the next look."""
        mesh = self._current_mesh()
        if mesh is None:
            return RESYNC_S
        # Separately and first, so that a service the kernel refuses can't hold the firewall back.
        try:
            self._firewall_writer.set_base(mesh.firewall)
        except vip_errors.VipError as err:
            # The kernel may lack memory for the former services; ``sync`` writes the firewall as well.
            log.warning("could not write the firewall", extra={"error": str(err)})
        services, slices = self._pending.take()
        for key in services:
            self._planner.put_service(key, self._caches.service(key))
        for key in slices:
            self._planner.put_slice(key, self._caches.slice(key))
        shares = self._planner.shares(mesh.view)
        self._firewall_writer.sync(shares)
        dropped = vip_shares.count_dropped(shares)
        if dropped != self.dropped and dropped:
            log.warning("left out endpoints outside their cluster's blocks", extra={"dropped": dropped})
        self.dropped, self.service_count, self.ready = dropped, self._caches.service_count, True
        return min(RESYNC_S, self._firewall_writer.refused.wait_s)

    @property
    def refused(self) -> refusals.Refusals:
        """The services that the kernel refuses."""
        return self._firewall_writer.refused

    def _current_mesh(self) -> _MeshInputs | None:
        """Return the inputs, read again only when one of them changed, because it parses all nodes and peers."""
        mesh = self._mesh
        if mesh is None or self._pending.mesh or mesh.isolated != self._isolated():
            self._pending.mesh = False
            try:
                self._mesh = self._read_mesh()
            except Exception:
                self._pending.mesh = True  # or the next attempt would take the former inputs for current ones
                raise
        return self._mesh

    def _read_mesh(self) -> _MeshInputs | None:
        """Return the inputs as they are now; None while one of the objects it needs is missing."""
        hub_peer, own_peer = self._caches.peer(names.HUB), self._caches.peer(self._cluster)
        node = self._caches.node(self._node)
        if hub_peer is None or own_peer is None or node is None or not node.spec.blocks:
            return None
        blocks = addresses.parse_networks(node.spec.blocks, field="blocks")
        nodes, _ = parse.parse_nodes(self._caches.nodes)
        isolated = self._isolated()
        firewall = NodeFirewall(
            fleet=addresses.parse_networks(hub_peer.status.fleet_cidrs, field="fleetCIDRs"),
            vips=addresses.parse_networks(hub_peer.status.vip_cidrs, field="vipCIDRs"),
            own=addresses.parse_networks(own_peer.status.cluster_cidrs, field="clusterCIDRs"),
            node_addresses=tuple({block.version: block.network_address for block in reversed(blocks)}.values()),
            other_nodes=tuple(
                # Sorted, so that the same nodes in another order don't count as changed rules.
                sorted(
                    (address for other in nodes if other.name != self._node for address in other.addresses),
                    key=lambda address: (address.version, int(address)),
                )
            ),
        )
        view = vip_plan.view_clusterset(
            self._caches.peers, cluster=self._cluster, node_blocks=blocks, zone=self._caches.zone, isolated=isolated
        )
        self._report_malformed(view)
        return _MeshInputs(firewall, view, isolated)

    def _report_malformed(self, view: vip_plan.ClustersetView) -> None:
        if view.malformed and (self._mesh is None or self._mesh.view.malformed != view.malformed):
            clusters = sorted(view.malformed)
            log.warning("left out endpoints of clusters with malformed blocks", extra={"clusters": clusters})
