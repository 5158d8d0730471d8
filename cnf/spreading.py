"""Keeps the node's firewall and virtual addresses as the clusterset's services say.

One invariant: until everything it depends on is known, the rules that a predecessor left stay in force.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cnf import caches
from cnf.tunnel import parse
from cnf.vip import firewall
from cnf.vip import plan as vip_plan
from cnf.vip import plane as vip_plane
from fleetboard.model import names
from fleetboard.model.addresses import Network

log = logging.getLogger(__name__)

AGAIN_S = 60.0


class Spreading:
    """Reconciles ``VipPlane`` with the caches; ``isolated`` tells whether this node's own way to the hub is dead."""

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
        self.dropped: dict[str, int] = {}
        """Endpoints outside their cluster's blocks, by cluster, as of the last look."""
        self.services = 0
        self.ready = False
        self._guarded = False

    def guard(self) -> None:
        """Put the firewall in force before the first packet may come, services known or not.

        Raises:
            VipError: the kernel doesn't hold it; call again, and let nothing in before.
        """
        found = self._find_wall()
        if not self._guarded and found is not None:
            self._plane.set_base(found[0])
            self._guarded = True

    def reconcile(self, _key: str) -> float:
        """Plan anew and write what changed."""
        found = self._find_wall()
        if found is None:
            return AGAIN_S
        wall, blocks = found
        # First and by itself: whatever is wrong with a service, the firewall stands.
        self._plane.set_base(wall)
        services = self._known.services
        table = vip_plan.plan_vips(
            services,
            self._known.slices,
            self._known.peers,
            cluster=self._cluster,
            local=blocks,
            isolated=self._isolated(),
        )
        self._plane.sync(table)
        if dict(table.dropped) != self.dropped and table.dropped:
            log.warning("endpoints outside their cluster's blocks are left out", extra={"dropped": dict(table.dropped)})
        self.dropped, self.services, self.ready = dict(table.dropped), len(services), True
        return AGAIN_S

    def _find_wall(self) -> tuple[firewall.NodeFirewall, tuple[Network, ...]] | None:
        """Return the firewall and this node's blocks, None while one of the objects that say so is not there."""
        hub, own = self._known.peer(names.HUB), self._known.peer(self._cluster)
        node = self._known.node(self._node)
        if hub is None or own is None or node is None or not node.spec.blocks:
            return None
        blocks = parse.parse_networks(node.spec.blocks, field="blocks")
        nodes, _ = parse.parse_nodes(self._known.nodes)
        wall = firewall.NodeFirewall(
            fleet=parse.parse_networks(hub.status.fleet_cidrs, field="fleetCIDRs"),
            vips=parse.parse_networks(hub.status.vip_cidrs, field="vipCIDRs"),
            own=parse.parse_networks(own.status.cluster_cidrs, field="clusterCIDRs"),
            node_addresses=tuple({block.version: block.network_address for block in reversed(blocks)}.values()),
            other_nodes=tuple(address for other in nodes if other.name != self._node for address in other.addresses),
        )
        return wall, blocks
