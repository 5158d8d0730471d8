"""The relay: forwards between members, inside the hub's one cnf network namespace.

It is one more WireGuard peer of every member's leader and standbys. Three sources feed its plan: Peers (which members
are admitted, and their blocks), PeerReports (which nodes of a member keep a session, and which of them leads) and
announcements in the tunnel (a new leader, before its report arrives).

Invariant: AllowedIPs here are the hub's own allocation. A member sends from its blocks alone, whatever it reports.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from cnf.relay import health
from cnf.tunnel import errors
from cnf.tunnel.plan import mesh, parse, plan
from cnf.tunnel.plan.desired import DesiredTunnel
from cnf.tunnel.session import epochs, probe, probe_port
from cnf.tunnel.wireguard.tunnel import Tunnel
from cnf.vip import firewall
from cnf.vip.writer import FirewallWriter
from fleetboard.kube import client as kube_client
from fleetboard.kube import controller, reflector, workqueue
from fleetboard.model import addresses, fleet, names, resource, times

log = logging.getLogger(__name__)

FIELD_MANAGER = "cnf-hub"
RESYNC_S = 10.0
"""When to plan again without an event; Peers and PeerReports raise one at each change."""
HEALTH_S = 0.2
"""How often the probes' states are read: a fifth of the second after which a member is unreachable."""
HEALTH_RETRY_S = 2.0
"""Longest pause between attempts to write the members' health: other members withdraw by it."""
REST_FACTOR = 2.0
"""Every heartbeat of a member is an event. Planning at each, 250 members would take a core."""


class Relay:
    """Reconciles the relay's tunnel, and reports on its own Peer and on the members' health.

    Attributes:
        prober: Probes every member's leader.
    """

    def __init__(
        self, client: kube_client.Client, *, tunnel: Tunnel, clusterset: str, endpoints: Sequence[str]
    ) -> None:
        """``endpoints`` is where members reach the tunnel, each ``host:port``."""
        self._client, self._tunnel = client, tunnel
        self._clusterset, self._endpoints = clusterset, endpoints
        self._namespace = names.clusterset_namespace(clusterset)
        self._tunnel_controller = controller.Controller("tunnel", self._reconcile_tunnel, rest_factor=REST_FACTOR)
        self._health_controller: controller.Controller[str] = controller.Controller(
            "health", self._reconcile_health, queue=workqueue.WorkQueue(cap_s=HEALTH_RETRY_S)
        )
        self._peers = reflector.Reflector(client, resource.PEERS, namespace=self._namespace, notify=self._wake_tunnel)
        self._reports = reflector.Reflector(client, resource.PEER_REPORTS, notify=self._wake_tunnel)
        self._highest_epochs = epochs.HighestEpochs()
        self.prober = probe.Prober()
        self._lock = threading.Lock()
        self._order = threading.Lock()  # a plan older than an announcement must not be set after it
        self._key_owners: Mapping[str, str] = {}
        self._identity: mesh.RelayIdentity | None = None
        self._leaders: dict[str, mesh.MemberSession] = {}
        self._refused: tuple[mesh.MeshRefusal, ...] = ()
        self._is_cut_off = False
        self._firewall_writer = FirewallWriter()

    def threads(self) -> Mapping[str, Callable[[threading.Event], None]]:
        """Return what the process runs, by name."""
        self._health_controller.enqueue(controller.SINGLE)
        return {
            "watch peers": self._peers.run,
            "watch peerreports": self._reports.run,
            "tunnel controller": self._tunnel_controller.run,
            "health": self._health_controller.run,
            "tunnel": self._tunnel.run,
            "probe port": self._serve_probes,
        }

    def unready_reason(self) -> str | None:
        """Return why the relay does not forward yet, or None."""
        if self._identity is None:
            return "the hub's own block is not allocated yet: is syncer-hub running?"
        return None if self._tunnel.backend else "no WireGuard device yet"

    def _peer(self, cluster: str) -> fleet.Peer | None:
        return self._peers.get(f"{self._namespace}/{cluster}")

    def _wake_tunnel(self, _key: str) -> None:
        self._tunnel_controller.enqueue(controller.SINGLE)

    def _reconcile_tunnel(self, _key: str) -> float:
        with self._order:
            desired = self._plan()
            if desired is not None:
                self._ensure_firewall()
                self._tunnel.set_desired(desired)
        if desired is not None:
            self._write_own_status()
        return RESYNC_S

    def _ensure_firewall(self) -> None:
        """Forward between members only. It comes before ``set_desired``: no peer sends before the firewall is there."""
        hub_peer = self._peer(names.HUB)
        if hub_peer is not None and self._identity is not None:
            vips = addresses.parse_networks(hub_peer.status.vip_cidrs, field="vipCIDRs")
            self._firewall_writer.set_base(firewall.RelayFirewall(fleet=self._identity.fleet, vips=vips))

    def _plan(self) -> DesiredTunnel | None:
        with self._lock:
            hub_peer = self._peer(names.HUB)
            if hub_peer is None or not (self._peers.synced.is_set() and self._reports.synced.is_set()):
                return None
            identity = parse.parse_relay_identity(self._tunnel.public_key, hub_peer)
            if identity is None:
                return None
            peers, reports = list(self._peers.store.values()), list(self._reports.store.values())
            members, refused = parse.parse_members(self._clusterset, peers, reports)
            members = [self._with_latest_leader(member) for member in members]
            planned = plan.plan_relay(identity, members, key_owners=self._key_owners)
            self._key_owners, self._identity = planned.key_owners, identity
            self._report_refusals((*refused, *planned.refusals))
            self._watch_members(members, planned.desired)
            return planned.desired

    def _with_latest_leader(self, member: mesh.RelayMember) -> mesh.RelayMember:
        if member.leader is not None:
            self._highest_epochs.observe(member.cluster, epochs.LeaderEpoch(member.epoch, member.leader.public_key))
        leader_epoch = self._highest_epochs.highest(member.cluster)
        if leader_epoch is None:
            return member
        return parse.with_leader(member, epoch=leader_epoch.epoch, public_key=leader_epoch.public_key)

    def _watch_members(self, members: list[mesh.RelayMember], desired: DesiredTunnel) -> None:
        """Accept announcements of the sessions that the plan admitted, and probe their leaders.

        Other sessions don't count: a report may name any address and any key.
        """
        admitted = plan.admitted_sessions(members, desired)
        self._highest_epochs.allow(
            {
                cluster: {address: session.public_key for session in sessions for address in session.addresses}
                for cluster, sessions in admitted.items()
            }
        )
        leaders = (
            (cluster, next((session for session in sessions if session.leader), None))
            for cluster, sessions in admitted.items()
        )
        self._leaders = {cluster: leader for cluster, leader in leaders if leader is not None}
        self.prober.set_targets(session.addresses[0] for session in self._leaders.values() if session.addresses)

    def _on_new_leader(self, cluster: str, leader_epoch: epochs.LeaderEpoch) -> None:
        """Move a cluster to its new leader before the ack goes out."""
        log.info("a new leader announced itself", extra={"cluster": cluster, "epoch": leader_epoch.epoch})
        try:
            with self._order:
                desired = self._plan()
                if desired is not None:
                    self._tunnel.sync(desired)
        except (errors.TunnelError, addresses.AddressRefusedError) as err:
            log.warning("could not serve the announced leader, retrying", extra={"cluster": cluster, "error": str(err)})
        self._tunnel_controller.enqueue(controller.SINGLE)

    def _serve_probes(self, stop: threading.Event) -> None:
        while self._identity is None:
            if stop.wait(0.1):
                return
        responder = probe_port.Responder(self._highest_epochs, on_new_leader=self._on_new_leader)
        probe_port.ProbeSocket(self._identity.addresses[0], prober=self.prober, responder=responder).run(stop)

    def _write_own_status(self) -> None:
        """Write where members reach the relay: these two fields of the hub's Peer are the relay's."""
        own_peer = self._peer(names.HUB)
        status = {"publicKey": self._tunnel.public_key, "endpoints": list(self._endpoints)}
        if own_peer is not None and (own_peer.status.public_key, own_peer.status.endpoints) != tuple(status.values()):
            self._write_status(names.HUB, status)

    def _reconcile_health(self, _key: str) -> float:
        now = time.monotonic()
        states = {
            cluster: self.prober.state(session.addresses[0])
            for cluster, session in self._leaders.items()
            if session.addresses
        }
        observations = {
            cluster: health.Observation(state.alive, state.seen) for cluster, state in states.items() if state
        }
        reachability, is_cut_off = health.decide(observations, now=now)
        if is_cut_off and not self._is_cut_off:
            log.error("too many members fell silent at once: the relay itself is cut off and withdraws none of them")
        self._is_cut_off = is_cut_off
        for cluster, reachable in reachability.items():
            peer = self._peer(cluster)
            if peer is not None and (peer.status.health is None or peer.status.health.reachable is not reachable):
                if reachable:
                    log.info("a member is reachable", extra={"cluster": cluster})
                else:
                    log.warning("a member is unreachable", extra={"cluster": cluster})
                self._write_status(cluster, {"health": {"reachable": reachable, "since": times.now()}})
        return HEALTH_S

    def _write_status(self, name: str, status: Mapping[str, object]) -> None:
        body = {"metadata": {"name": name, "namespace": self._namespace}, "status": dict(status)}
        self._client.apply(resource.PEERS, body, manager=FIELD_MANAGER, subresource="status")

    def _report_refusals(self, refused: tuple[mesh.MeshRefusal, ...]) -> None:
        if refused != self._refused:
            self._refused = refused
            for refusal in refused:
                log.warning("%s", refusal.message, extra={"subject": refusal.subject, "reason": refusal.reason.value})
