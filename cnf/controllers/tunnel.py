"""Steers a node's tunnel: from what the API says and who leads to what WireGuard, routes and pods shall have.

One invariant: an unknown is no change. Without the API, or while nobody holds the Lease, the tunnel stays as it was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from cnf.agent import caches
from cnf.attach import errors
from cnf.attach.node_network import network
from cnf.netlink import errors as netlink_errors
from cnf.tunnel.plan import mesh, parse, plan
from cnf.tunnel.session import epochs, session
from cnf.tunnel.wireguard import tunnel
from fleetboard.kube import lease
from fleetboard.model import addresses, names

log = logging.getLogger(__name__)

AGAIN_S = 10.0
LEADER_POLL_S = 0.1
UNKNOWN_S = 8.0
"""How long the leader may be unknown once the API answers: longer than a term without one."""
UNKNOWN_POLL_S = 0.05


class Steering:
    """Reconciles the tunnel; ``on_network`` gets the node's part of the fleet whenever it changes.

    ``standing`` says that a former process left a tunnel: a plan made before the leader is known would take it apart.
    """

    def __init__(
        self,
        *,
        node: str,
        cluster: str,
        known: caches.Caches,
        carrier: tunnel.Tunnel,
        keeper: session.SessionRunner,
        elector: lease.Elector,
        on_network: Callable[[network.NodeNetwork], None],
        standing: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node, self._cluster, self._known = node, cluster, known
        self._carrier, self._keeper, self._elector = carrier, keeper, elector
        self._on_network = on_network
        self._clock = clock
        self._standing = standing
        self._wait_until: float | None = None
        self._key_owners: Mapping[str, str] = {}
        self._refused: tuple[mesh.MeshRefusal, ...] = ()
        self._network: network.NodeNetwork | None = None
        self._not_taken_up = ""
        self.leadership: mesh.Leadership | None = None

    def reconcile(self, _key: str) -> float:
        """Plan anew and hand the plan on."""
        hub_peer = self._known.peer(names.HUB)
        own = self._known.peer(self._cluster)
        fleet_node = self._known.node(self._node)
        identity = parse.parse_identity(self._node, self._carrier.public_key, fleet_node, own)
        if identity is None or hub_peer is None:
            return AGAIN_S
        nodes, refused_nodes = parse.parse_nodes(self._known.nodes)
        hub, refused_hub = parse.parse_relay(hub_peer)
        self._set_network(identity, hub, returned=fleet_node.status.blocks_returned if fleet_node else [])
        self.leadership = self._lead([node.name for node in nodes])
        if self._waits_for_leader():
            return UNKNOWN_POLL_S
        planned = plan.plan_node(identity, nodes, hub, self.leadership, key_owners=self._key_owners)
        self._key_owners = planned.key_owners
        self._report((*refused_nodes, *refused_hub, *planned.refusals))
        self._carrier.want(planned.wanted)
        self._keeper.update(self._session(identity, hub, keeps=planned.wanted.peer(hub.public_key) is not None))
        return AGAIN_S

    def watch_leader(self, stop: threading.Event, *, notify: Callable[[str], None]) -> None:
        """Tell ``notify`` when the Lease changed hands, until ``stop``."""
        seen = ("", 0)
        while not stop.wait(LEADER_POLL_S):
            now = (self._elector.holder, self._elector.epoch)
            if now != seen:
                seen = now
                notify("leader")

    def _waits_for_leader(self) -> bool:
        if self.leadership is not None or not self._standing:
            return False
        if self._wait_until is None:
            # Not at the start: the API may have been away since, and the Lease is read after the caches.
            self._wait_until = self._clock() + UNKNOWN_S
        return self._clock() < self._wait_until

    def _lead(self, nodes: list[str]) -> mesh.Leadership | None:
        holder = self._elector.holder
        if not holder:
            return self.leadership  # given back, not taken yet: the last leader's session still stands
        offered = mesh.Leadership(holder, plan.choose_standbys(holder, nodes), self._elector.epoch)
        return plan.newer(self.leadership, offered)

    def _set_network(self, identity: mesh.NodeIdentity, hub: mesh.RelayPeer, *, returned: list[str]) -> None:
        found = network.NodeNetwork(
            node_address=identity.addresses[0],
            blocks=identity.blocks,
            fleet=hub.fleet,
            mtu=hub.mtu,
            returned=addresses.parse_networks(returned, field="blocksReturned"),
        )
        if found == self._network:
            return
        try:
            self._on_network(found)
        except (errors.AttachError, netlink_errors.NetlinkError) as err:
            # A disk that takes nothing must not hold up the tunnel of all pods; the next round tries again.
            if str(err) != self._not_taken_up:
                log.error("the node's network is not taken up", extra={"error": str(err)})  # noqa: TRY400 - as it says
            self._not_taken_up = str(err)
            return
        self._network, self._not_taken_up = found, ""

    def _session(self, identity: mesh.NodeIdentity, hub: mesh.RelayPeer, *, keeps: bool) -> session.Session:
        address = identity.addresses[0]
        hub_address = next((found for found in hub.addresses if found.version == address.version), None)
        leads = self.leadership is not None and self.leadership.leader == self._node
        claim = epochs.LeaderClaim(self.leadership.epoch, identity.public_key) if leads and self.leadership else None
        return session.Session(address, self._cluster, hub.public_key if keeps else "", hub_address, claim)

    def _report(self, refused: tuple[mesh.MeshRefusal, ...]) -> None:
        if refused != self._refused:
            self._refused = refused
            for refusal in refused:
                log.warning("%s", refusal.message, extra={"subject": refusal.subject, "reason": refusal.reason.value})
