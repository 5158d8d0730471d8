"""Reconciles the node's tunnel: computes peers, routes and pod network from API objects and the current leader.

Invariant: an unknown is no change. Without the API, or while nobody holds the Lease, the tunnel stays as it was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from cnf.agent.caches import Caches
from cnf.agent.wakes import AgentSource, WorkQueues
from cnf.attach import errors
from cnf.attach.node_network import network
from cnf.netlink import errors as netlink_errors
from cnf.tunnel.plan import mesh, parse, plan
from cnf.tunnel.session import epochs
from cnf.tunnel.session.session import Session, SessionRunner
from cnf.tunnel.wireguard.tunnel import Tunnel
from fleetboard.kube import lease
from fleetboard.model import addresses, names, standbys

log = logging.getLogger(__name__)

RESYNC_S = 10.0
"""When to plan again without an event, above all after a network that could not be taken up."""
LEADER_POLL_S = 0.1
"""How often the Elector is looked at, which raises no event: it delays a takeover, and costs one comparison."""
UNKNOWN_S = 8.0
"""How long the leader may stay unknown once the API answers: longer than a term."""
UNKNOWN_POLL_S = 0.05
"""How often to look for the leader until then; the tunnel of a former process carries traffic meanwhile."""


class TunnelController:
    """Reconciles the tunnel; ``set_network`` takes up the node's part of the fleet network whenever it changes.

    ``tunnel_exists``: a former process left a tunnel, and a plan made before the leader is known would take it apart.
    """

    def __init__(
        self,
        *,
        node: str,
        cluster: str,
        caches: Caches,
        tunnel: Tunnel,
        sessions: SessionRunner,
        elector: lease.Elector,
        set_network: Callable[[network.NodeNetwork], None],
        work_queues: WorkQueues,
        tunnel_exists: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node, self._cluster, self._caches = node, cluster, caches
        self._tunnel, self._sessions, self._elector = tunnel, sessions, elector
        self._take_up_network, self._work_queues = set_network, work_queues
        self._clock = clock
        self._tunnel_exists = tunnel_exists
        self._wait_until: float | None = None
        self._key_owners: Mapping[str, str] = {}
        self._refused: tuple[mesh.MeshRefusal, ...] = ()
        self._network: network.NodeNetwork | None = None
        self._network_error = ""
        self.leadership: mesh.Leadership | None = None

    def reconcile(self, _key: str) -> float:
        """Plan the tunnel, and hand the plan to those who carry it out."""
        hub_peer = self._caches.peer(names.HUB)
        own_peer = self._caches.peer(self._cluster)
        fleet_node = self._caches.node(self._node)
        identity = parse.parse_identity(self._node, self._tunnel.public_key, fleet_node, own_peer)
        if identity is None or hub_peer is None:
            return RESYNC_S
        nodes, refused_nodes = parse.parse_nodes(self._caches.nodes)
        relay, refused_relay = parse.parse_relay(hub_peer)
        self._set_network(identity, relay, returned=fleet_node.status.blocks_returned if fleet_node else [])
        self.leadership = self._choose_leadership([node.name for node in nodes])
        if self._waits_for_leader():
            return UNKNOWN_POLL_S
        planned = plan.plan_node(identity, nodes, relay, self.leadership, key_owners=self._key_owners)
        self._key_owners = planned.key_owners
        self._report_refusals((*refused_nodes, *refused_relay, *planned.refusals))
        self._tunnel.set_desired(planned.desired)
        self._sessions.update(
            self._plan_session(identity, relay, keeps=planned.desired.peer(relay.public_key) is not None)
        )
        return RESYNC_S

    def watch_leader(self, stop: threading.Event) -> None:
        """Wake the controllers concerned when the Lease changes hands, until ``stop``."""
        seen = ("", 0)
        while not stop.wait(LEADER_POLL_S):
            now = (self._elector.holder, self._elector.epoch)
            if now != seen:
                seen = now
                self._work_queues.wake(AgentSource.LEADERSHIP)

    def _waits_for_leader(self) -> bool:
        if self.leadership is not None or not self._tunnel_exists:
            return False
        if self._wait_until is None:
            # Not from the start: the API may have been away since, and the Lease is read after the caches.
            self._wait_until = self._clock() + UNKNOWN_S
        return self._clock() < self._wait_until

    def _choose_leadership(self, nodes: list[str]) -> mesh.Leadership | None:
        holder = self._elector.holder
        if not holder:
            return self.leadership  # released, not taken yet: the last leader's session still exists
        offered = mesh.Leadership(holder, standbys.choose_standbys(holder, nodes), self._elector.epoch)
        return plan.newer(self.leadership, offered)

    def _set_network(self, identity: mesh.NodeIdentity, relay: mesh.RelayPeer, *, returned: list[str]) -> None:
        node_network = network.NodeNetwork(
            node_address=identity.addresses[0],
            blocks=identity.blocks,
            fleet=relay.fleet,
            mtu=relay.mtu,
            returned=addresses.parse_networks(returned, field="blocksReturned"),
        )
        if node_network == self._network:
            return
        try:
            self._take_up_network(node_network)
        except (errors.AttachError, netlink_errors.NetlinkError) as err:
            # A full disk must not hold up the tunnel of all pods; the next round tries again.
            if str(err) != self._network_error:
                log.error("could not take up the node's network, retrying", extra={"error": str(err)})
            self._network_error = str(err)
            return
        self._network, self._network_error = node_network, ""
        self._work_queues.wake(AgentSource.NETWORK)

    def _plan_session(self, identity: mesh.NodeIdentity, relay: mesh.RelayPeer, *, keeps: bool) -> Session:
        own_address = identity.addresses[0]
        relay_address = next((address for address in relay.addresses if address.version == own_address.version), None)
        leads = self.leadership is not None and self.leadership.leader == self._node
        leader_epoch = None
        if leads and self.leadership is not None:
            leader_epoch = epochs.LeaderEpoch(self.leadership.epoch, identity.public_key)
        return Session(own_address, self._cluster, relay.public_key if keeps else "", relay_address, leader_epoch)

    def _report_refusals(self, refused: tuple[mesh.MeshRefusal, ...]) -> None:
        if refused != self._refused:
            self._refused = refused
            for refusal in refused:
                log.warning("%s", refusal.message, extra={"subject": refusal.subject, "reason": refusal.reason.value})
