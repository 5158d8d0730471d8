"""Keeps the node's firewall and virtual addresses as the clusterset's services say.

One invariant: until everything it depends on is known, the rules that a predecessor left stay in force.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable

from cnf.agent import caches
from cnf.tunnel.plan import parse
from cnf.vip import errors as vip_errors
from cnf.vip import firewall, refusals
from cnf.vip import plan as vip_plan
from cnf.vip import shares as vip_shares
from cnf.vip import writer as vip_plane
from fleetboard.model import addresses, names

log = logging.getLogger(__name__)

AGAIN_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """What nodes and peers say: the firewall, and where the node stands."""

    wall: firewall.NodeFirewall
    here: vip_plan.Standpoint
    isolated: bool


class Spreading:
    """Reconciles ``VipPlane`` with the caches.

    ``isolated`` tells whether this node's own way to the hub is dead. Whoever hears of a change notes it, and then asks
    for ``reconcile``.
    """

    def __init__(
        self,
        *,
        node: str,
        cluster: str,
        known: caches.Caches,
        plane: vip_plane.VipPlane,
        isolated: Callable[[], bool],
    ) -> None:
        self._node, self._cluster, self._known, self._plane = node, cluster, known, plane
        self._isolated = isolated
        self._lock = threading.Lock()
        self._services: set[str] = set()
        self._slices: set[str] = set()
        self._mesh_changed = True
        self._place: _Place | None = None
        self._planner = vip_shares.Planner()
        self.dropped: dict[str, int] = {}
        """Endpoints outside their cluster's blocks, by cluster, as of the last look."""
        self.services = 0
        self.ready = False
        self._guarded = False

    def note_service(self, key: str) -> None:
        """Remember that this FleetService may have changed."""
        with self._lock:
            self._services.add(key)

    def note_slice(self, key: str) -> None:
        """Remember that this EndpointSlice may have changed."""
        with self._lock:
            self._slices.add(key)

    def note_mesh(self) -> None:
        """Remember that nodes or peers may have changed, or this node's zone."""
        self._mesh_changed = True

    def guard(self) -> None:
        """Put the firewall in force before the first packet may come, services known or not.

        Raises:
            VipError: the kernel doesn't hold it; call again, and let nothing in before.
        """
        found = self._find_place()
        if not self._guarded and found is not None:
            self._plane.set_base(found.wall)
            self._guarded = True

    def reconcile(self, _key: str) -> float:
        """Plan anew what changed and write that."""
        place = self._look_around()
        if place is None:
            return AGAIN_S
        # First and by itself: whatever is wrong with a service, the firewall stands.
        try:
            self._plane.set_base(place.wall)
        except vip_errors.VipError as err:
            # It may be the former services that the kernel has no memory for; ``sync`` writes the firewall as well.
            log.warning("the firewall is not in force yet", extra={"error": str(err)})
        with self._lock:
            services, self._services = self._services, set()
            slices, self._slices = self._slices, set()
        for key in services:
            self._planner.put_service(key, self._known.service(key))
        for key in slices:
            self._planner.put_slice(key, self._known.slice(key))
        shares = self._planner.shares(place.here)
        self._plane.sync(shares)
        dropped = vip_shares.count_dropped(shares)
        if dropped != self.dropped and dropped:
            log.warning("endpoints outside their cluster's blocks are left out", extra={"dropped": dropped})
        self.dropped, self.services, self.ready = dropped, self._known.service_count, True
        return min(AGAIN_S, self._plane.refused.wait_s)

    @property
    def refused(self) -> refusals.Refusals:
        """The services that the kernel refuses."""
        return self._plane.refused

    def _look_around(self) -> _Place | None:
        """Return the place, read anew only when something about it changed: that costs all nodes and peers."""
        place = self._place
        if place is None or self._mesh_changed or place.isolated != self._isolated():
            self._mesh_changed = False
            try:
                self._place = self._find_place()
            except Exception:
                self._mesh_changed = True  # or the next try would take the former place for this one
                raise
        return self._place

    def _find_place(self) -> _Place | None:
        """Return None while one of the objects that say so is not there."""
        hub, own = self._known.peer(names.HUB), self._known.peer(self._cluster)
        node = self._known.node(self._node)
        if hub is None or own is None or node is None or not node.spec.blocks:
            return None
        blocks = addresses.parse_networks(node.spec.blocks, field="blocks")
        nodes, _ = parse.parse_nodes(self._known.nodes)
        isolated = self._isolated()
        wall = firewall.NodeFirewall(
            fleet=addresses.parse_networks(hub.status.fleet_cidrs, field="fleetCIDRs"),
            vips=addresses.parse_networks(hub.status.vip_cidrs, field="vipCIDRs"),
            own=addresses.parse_networks(own.status.cluster_cidrs, field="clusterCIDRs"),
            node_addresses=tuple({block.version: block.network_address for block in reversed(blocks)}.values()),
            other_nodes=tuple(
                # In one order: every other list of the nodes would be rules to write.
                sorted(
                    (address for other in nodes if other.name != self._node for address in other.addresses),
                    key=lambda address: (address.version, int(address)),
                )
            ),
        )
        here = vip_plan.stand(
            self._known.peers, cluster=self._cluster, local=blocks, zone=self._known.zone, isolated=isolated
        )
        if here.malformed and (self._place is None or self._place.here.malformed != here.malformed):
            malformed = sorted(here.malformed)
            log.warning("the endpoints of clusters with malformed blocks are left out", extra={"clusters": malformed})
        return _Place(wall, here, isolated)
