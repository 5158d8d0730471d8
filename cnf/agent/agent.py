"""cnf beyond the node (``cnf.agent.node``): what asks the API and other nodes.

Puts the threads together; every decision is made elsewhere. One invariant: pods are wired by what the node remembers
before the API is asked anything, and nothing is torn down on start or stop.
"""

from __future__ import annotations

import importlib.metadata
import logging
import threading
import time

import prometheus_client

from cnf.agent import caches, changes, metrics, node, settings
from cnf.attach import errors as attach_errors
from cnf.attach.node_network import network
from cnf.controllers import status
from cnf.controllers.blocks import controller as block_controller
from cnf.controllers.latecomers.controller import Healing
from cnf.controllers.services import Spreading
from cnf.controllers.startup_taint import StartupTaint
from cnf.controllers.tunnel import Steering
from cnf.netlink import errors as netlink_errors
from cnf.tunnel import errors as tunnel_errors
from cnf.tunnel.session import sessions
from cnf.tunnel.wireguard import key, tunnel
from fleetboard.kube import client as kube_client
from fleetboard.kube import controller, events, lease
from fleetboard.kube import errors as kube_errors
from fleetboard.kube import metrics as kube_metrics
from fleetboard.model import fleet
from fleetboard.runtime import process, server

log = logging.getLogger(__name__)

LEASE = "cnf-leader"
TERM_S, DEADLINE_S, PERIOD_S = 6.0, 4.0, 1.0
"""Shorter than Kubernetes' own: the API fences a takeover, and a node that lost it must not hold the cluster back."""
COLLECT_S = 30.0
COLLECT_FIRST_S = 2.0
"""After the start, which on a node that booted found everything dead once: what is freed now, others wait for."""
REST = 2.0
"""What concerns all services or nodes is a plan of all of them: with 10 000 services that is half a second."""
SOON_S = 0.05
GUARD_S = 3.0
"""How long the first tunnel waits for the services; then the firewall is put up without them."""
ALL = "all"


class Daemon:
    """The parts of one node and how they hear of each other."""

    def __init__(
        self,
        options: settings.Settings,
        first: node.Node,
        client: kube_client.Client,
        private_key: key.PrivateKey,
    ) -> None:
        self._options, self._cni, self._first = options, first.cni, first
        version = importlib.metadata.version("fleetboard")
        self._calls = metrics.Calls()
        self._carrier = tunnel.Tunnel(private_key=private_key)
        self._keeper = sessions.Sessions(
            self._carrier,
            outbid=lambda epoch: self._elector.outbid(epoch),
            on_isolation=self._isolation_changed,
        )
        self._elector = lease.Elector(
            client,
            namespace=options.namespace,
            name=LEASE,
            identity=options.node,
            duration_s=TERM_S,
            deadline_s=DEADLINE_S,
            period_s=PERIOD_S,
        )
        self._recorder = events.Recorder(client, "cnf")
        self._known = caches.Caches(
            client,
            options.namespace,
            node=options.node,
            on_node=self._node_changed,
            on_own_node=self._own_node_changed,
            on_peer=self._peer_changed,
            on_service=self._service_changed,
            on_slice=self._slice_changed,
            on_claims=lambda _key: self._grant.enqueue(ALL),
            on_pods=lambda _key: self._heal.enqueue(ALL),
        )
        self._steering = Steering(
            node=options.node,
            cluster=options.cluster,
            known=self._known,
            carrier=self._carrier,
            keeper=self._keeper,
            elector=self._elector,
            on_network=self._network_changed,
            standing=first.taken_over.standing,
        )
        self._spreading = Spreading(
            node=options.node,
            cluster=options.cluster,
            known=self._known,
            plane=first.vips,
            isolated=lambda: self._keeper.isolated,
        )
        granter = block_controller.Granting(
            client,
            options.namespace,
            options.cluster,
            self._known,
            leading=lambda: self._elector.leading,
            recorder=self._recorder,
        )
        publisher = status.Publishing(
            client,
            namespace=options.namespace,
            node=options.node,
            version=version,
            report=self._report,
            attachments=self._cni.attachments,
            known=lambda: self._known.node(options.node),
        )
        self._healing = Healing(
            netns_dir=options.netns_dir,
            pods=lambda: self._known.pods,
            attachments=self._cni.attachments,
            call=self._cni.call,
            recorder=self._recorder,
        )
        self._taint = StartupTaint(
            client,
            node=options.node,
            conf_dir=options.cni_conf_dir,
            state_dir=options.state_dir,
            ready=self.ready,
        )
        self._guard_at = 0.0
        self._nodes = changes.Notice(changes.node_essence)
        self._peers = changes.Notice(changes.peer_essence)
        self._zone = ""
        known = self._known
        self._heal = controller.Controller("latecomers", self._healing.reconcile, wait_for=known.pods_synced)
        self._steer = controller.Controller("tunnel", self._steer_guarded, wait_for=known.mesh_synced, rest=REST)
        self._spread = controller.Controller(
            "services", self._spreading.reconcile, wait_for=known.services_synced, rest=REST
        )
        self._grant = controller.Controller("blocks", granter.reconcile, wait_for=known.claims_synced, rest=REST)
        self._publish = controller.Controller("fleetnode", publisher.reconcile_node, wait_for=known.mesh_synced)
        self._attached = controller.Controller("attachments", publisher.reconcile_attachments, rest=REST)
        first.listen(on_change=self._attachments_changed, on_call=self._calls.note, outlook=self._outlook)

    def threads(self) -> process.Threads:
        """Return what shall run besides the node's own."""
        return {
            "collect": self._collect,
            "tunnel": self._carrier.run,
            "session": self._keeper.run,
            **self._known.threads(),
            "leader": self._campaign,
            "watch leader": lambda stop: self._steering.watch_leader(stop, notify=lambda _key: self._replan()),
            "steer": self._steer.run,
            "spread": self._spread.run,
            "grant": self._grant.run,
            "heal": self._heal.run,
            "publish node": self._publish.run,
            "publish attachments": self._attached.run,
            **({"startup taint": self._taint.run} if self._options.startup_taint else {}),
        }

    def collectors(self) -> list[prometheus_client.registry.Collector]:
        """Return what /metrics shows."""
        return [
            *self._calls.collectors,
            metrics.TunnelCollector(self._carrier, self._keeper.prober.states),
            metrics.FirewallCollector(
                services=lambda: self._spreading.services,
                refused=lambda: len(self._spreading.refused),
                dropped=lambda: self._spreading.dropped,
            ),
            metrics.NodeCollector(
                usage=lambda: (self._cni.usage().used, self._cni.usage().free),
                attachments=lambda: len(self._cni.attachments()),
                leading=lambda: self._elector.leading,
                epoch=lambda: self._elector.epoch,
                latecomers=lambda: (self._healing.waiting, self._healing.healed),
            ),
        ]

    def ready(self) -> str | None:
        """Say why a pod can't be attached and carried here yet, or None."""
        if self._cni.network() is None:
            return "this node has no block of addresses yet: has the cluster joined, and is there a leader?"
        if not self._carrier.backend:
            return "no WireGuard device yet"
        if not self._spreading.ready:
            return "the services of the clusterset are not in place yet"
        return None

    def _node_changed(self, key: str) -> None:
        if self._nodes.differs(key, self._known.fleet_node(key)):
            self._mesh_changed(key)
        elif key.endswith(f"/{self._options.node}"):
            self._publish.enqueue(ALL)

    def _peer_changed(self, key: str) -> None:
        if self._peers.differs(key, self._known.fleet_peer(key)):
            self._mesh_changed(key)

    def _own_node_changed(self, _key: str) -> None:
        if self._known.zone != self._zone:
            self._zone = self._known.zone
            self._spread_mesh()

    def _service_changed(self, key: str) -> None:
        self._spreading.note_service(key)
        self._spread.enqueue(ALL)

    def _slice_changed(self, key: str) -> None:
        self._spreading.note_slice(key)
        self._spread.enqueue(ALL)

    def _mesh_changed(self, _key: str) -> None:
        self._replan()
        self._spread_mesh()

    def _replan(self) -> None:
        self._steer.enqueue(ALL)
        self._grant.enqueue(ALL)
        self._publish.enqueue(ALL)

    def _spread_mesh(self) -> None:
        self._spreading.note_mesh()
        self._spread.enqueue(ALL)

    def _steer_guarded(self, key: str) -> float:
        """Steer the tunnel once the firewall stands: a new pod's namespace forwards anything until then."""
        if not (self._first.taken_over.firewall or self._spreading.ready):
            self._guard_at = self._guard_at or time.monotonic() + GUARD_S
            if time.monotonic() < self._guard_at:
                return SOON_S
            self._spreading.guard()
        return self._steering.reconcile(key)

    def _network_changed(self, found: network.NodeNetwork) -> None:
        self._cni.set_network(found)
        self._publish.enqueue(ALL)

    def _isolation_changed(self) -> None:
        self._spread.enqueue(ALL)
        self._publish.enqueue(ALL)

    def _attachments_changed(self) -> None:
        self._attached.enqueue(ALL)
        self._publish.enqueue(ALL)

    def _campaign(self, stop: threading.Event) -> None:
        self._publish.enqueue(ALL)
        self._attached.enqueue(ALL)

        self._elector.run(stop, on_start=self._replan, on_stop=self._replan)

    def _collect(self, stop: threading.Event) -> None:
        pause_s = COLLECT_FIRST_S
        while not stop.wait(pause_s):
            pause_s = COLLECT_S
            try:
                self._cni.collect()
            except (attach_errors.AttachError, netlink_errors.NetlinkError) as err:
                # A full disk, a kernel out of memory: the next round tries again, and pods are carried meanwhile.
                log.error("dead attachments were not collected", extra={"error": str(err)})  # noqa: TRY400 - as it says

    def _report(self) -> status.Report:
        usage, wanted, returned, held = status.read_addresses(self._cni)
        return status.Report(
            public_key=self._carrier.public_key,
            endpoint=status.endpoint(self._options.pod_ip),
            mtu=status.underlay_mtu(self._options.pod_ip),
            used=usage.used,
            free=usage.free,
            wanted=wanted,
            returned=returned,
            held=held,
            ready=self.ready(),
            exhausted="" if usage.free else self._outlook(),
            refused=self._spreading.refused.describe(),
            leading=self._leading(),
        )

    def _leading(self) -> fleet.Leading | None:
        """Say what this node sees of the hub while it leads: crossdns can't probe, and the hub can't tell it."""
        if not self._elector.leading:
            return None
        return fleet.Leading(epoch=self._elector.epoch, hub_reachable=not self._keeper.isolated)

    def _outlook(self) -> str:
        return block_controller.outlook(self._known, node=self._options.node, cluster=self._options.cluster)


def run(options: settings.Settings, first: node.Node, crew: process.Crew) -> int:
    """Run besides ``first``, whose threads are in ``crew`` already, until stopped; return the exit status."""
    try:
        client = kube_client.Client.in_cluster(user_agent="fleetboard-cnf")
        daemon = Daemon(options, first, client, key.ensure(options.state_dir))
    except (kube_errors.KubeError, tunnel_errors.TunnelError, OSError) as err:
        log.error("%s", err)  # noqa: TRY400 - the sentence says all
        return 1
    registry = prometheus_client.CollectorRegistry()
    kube_metrics.register(registry)
    for collector in daemon.collectors():
        registry.register(collector)
    observed = server.serve(port=options.observe_port, registry=registry, healthy=lambda: None, ready=daemon.ready)
    try:
        crew.start(daemon.threads())
        log.info("running", extra={"version": importlib.metadata.version("fleetboard")})
        return crew.wait()
    finally:
        observed.close()
