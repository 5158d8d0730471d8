"""What a node reports of itself: whether it is ready, and what its FleetNode's status is made of."""

from __future__ import annotations

import dataclasses

from cnf.agent.caches import Caches
from cnf.agent.settings import AgentSettings
from cnf.attach.service import CniService
from cnf.controllers import status
from cnf.controllers.blocks import controller as blocks_controller
from cnf.controllers.services import ServiceController
from cnf.tunnel.session.session import SessionRunner
from cnf.tunnel.wireguard.tunnel import Tunnel
from fleetboard.kube import lease
from fleetboard.model import fleet


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NodeReporter:
    """Reads the parts of one node's agent. Thread-safe."""

    settings: AgentSettings
    cni: CniService
    caches: Caches
    tunnel: Tunnel
    sessions: SessionRunner
    elector: lease.Elector
    services: ServiceController

    def unready_reason(self) -> str | None:
        """Return why a pod can't be attached and carried here yet, or None."""
        if self.cni.network() is None:
            return "this node has no block of addresses yet: has the cluster joined, and is there a leader?"
        if not self.tunnel.backend:
            return "no WireGuard device yet"
        if not self.services.ready:
            return "the services of the clusterset are not in place yet"
        return None

    def why_no_block(self) -> str:
        """Return why no further block comes for this node; nothing when one is free."""
        return blocks_controller.why_no_block(self.caches, node=self.settings.node, cluster=self.settings.cluster)

    def own_node(self) -> fleet.FleetNode | None:
        """Return this node's FleetNode."""
        return self.caches.node(self.settings.node)

    def report(self) -> status.Report:
        """Return what is true of the node now."""
        usage, wanted, returned, held = status.read_addresses(self.cni)
        return status.Report(
            public_key=self.tunnel.public_key,
            endpoint=status.endpoint(self.settings.pod_ip),
            mtu=status.largest_tunnel_mtu(self.settings.pod_ip),
            used=usage.used,
            free=usage.free,
            wanted=wanted,
            returned=returned,
            held=held,
            unready_reason=self.unready_reason(),
            exhausted="" if usage.free else self.why_no_block(),
            refused=self.services.refused.describe(),
            leading=self._leading(),
        )

    def _leading(self) -> fleet.Leading | None:
        """Return whether this node reaches the relay, while it leads.

        crossdns can't probe the relay, and an unreachable hub can't report that it is unreachable.
        """
        if not self.elector.leading:
            return None
        return fleet.Leading(epoch=self.elector.epoch, hub_reachable=not self.sessions.isolated)
