"""cnf-hub: relays between the members, inside the hub's one cnf network namespace (``python -m cnf.relay``).

One invariant: AllowedIPs here are the hub's own allocation. A member sends from its blocks alone, whatever it says.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import logging
import threading
import time
from collections.abc import Callable, Mapping

import prometheus_client

from cnf.agent import metrics
from cnf.agent import settings as cnf_settings
from cnf.relay import health
from cnf.tunnel import errors
from cnf.tunnel.plan import epochs, mesh, parse, plan
from cnf.tunnel.plan.wanted import Wanted
from cnf.tunnel.session import probe
from cnf.tunnel.wireguard import endpoints, key, tunnel
from cnf.vip import firewall
from cnf.vip import writer as vip_plane
from fleetboard.kube import backoff, controller, reflector, workqueue
from fleetboard.kube import client as kube_client
from fleetboard.kube import errors as kube_errors
from fleetboard.kube import metrics as kube_metrics
from fleetboard.model import addresses, core, meta, names, resource
from fleetboard.runtime import environment, logs, process, server

log = logging.getLogger(__name__)

MANAGER = "cnf-hub"
SECRET = "cnf-hub-key"  # noqa: S105 - a name
SECRET_FIELD = "private-key"  # noqa: S105 - a name
AGAIN_S = 10.0
HEALTH_S = 0.2
HEALTH_RETRY_S = 2.0
KEY_RETRY_S = 5.0
REST = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Settings of ``python -m cnf.relay``."""

    namespace: str
    clusterset: str
    endpoints: tuple[str, ...]
    observe_port: int
    log_level: str


def read_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingRefusedError: naming the variable, its value and what was expected.
    """

    def parse_endpoints(text: str) -> tuple[str, ...]:
        try:
            return tuple(str(endpoints.parse(word)) for word in environment.words(text))
        except errors.EndpointRefusedError as err:
            raise ValueError(str(err)) from err

    return Settings(
        namespace=environment.read("NAMESPACE", names.NAMESPACE),
        clusterset=environment.read("CLUSTERSET", "default", parse=names.parse_clusterset_name),
        endpoints=environment.read("TUNNEL_ENDPOINTS", parse=parse_endpoints),
        observe_port=environment.read("OBSERVE_PORT", names.OBSERVE_PORT, parse=environment.port),
        log_level=environment.read("LOG_LEVEL", "info"),
    )


def ensure_key(client: kube_client.Client, namespace: str) -> key.PrivateKey:
    """Return the hub's key, kept in a Secret so that a new pod is the same peer to every child."""
    found = client.find(resource.SECRETS, SECRET, namespace)
    if found is None:
        fresh = key.generate()
        encoded = base64.b64encode(fresh.base64.encode()).decode()
        secret = core.Secret(metadata=meta.ObjectMeta(name=SECRET, namespace=namespace), data={SECRET_FIELD: encoded})
        try:
            found = client.create(resource.SECRETS, secret)
        except kube_errors.AlreadyExistsError:
            found = client.get(resource.SECRETS, SECRET, namespace)
    return key.parse(
        base64.b64decode(found.data.get(SECRET_FIELD, "")), field=f"Secret {namespace}/{SECRET} {SECRET_FIELD}"
    )


def wait_for_key(client: kube_client.Client, namespace: str) -> key.PrivateKey:
    """Return the hub's key once the API answers: ending would have kubelet wait longer each time, when it is back."""
    wait = backoff.Backoff(cap_s=KEY_RETRY_S)
    while True:
        try:
            return ensure_key(client, namespace)
        except (kube_errors.UnreachableError, kube_errors.ServerError, kube_errors.ThrottledError) as err:
            delay_s = wait.after(err)
            log.warning("the hub's key can't be read yet", extra={"error": str(err), "retry_s": round(delay_s, 1)})
            time.sleep(delay_s)


class Hub:
    """Steers the hub's tunnel by Peers, PeerReports and announcements."""

    def __init__(self, client: kube_client.Client, settings: Settings, carrier: tunnel.Tunnel) -> None:
        self._client, self._settings, self._carrier = client, settings, carrier
        self._namespace = names.clusterset_namespace(settings.clusterset)
        # Every member's heartbeat is an event: planned anew at each, 250 members would take a core.
        self.steer = controller.Controller("tunnel", self._reconcile, rest=REST)
        self.health: controller.Controller[str] = controller.Controller(
            "health", self._reconcile_health, queue=workqueue.WorkQueue(cap_s=HEALTH_RETRY_S)
        )
        self.peers = reflector.Reflector(
            client, resource.PEERS, namespace=self._namespace, notify=lambda _key: self.steer.enqueue("all")
        )
        self.reports = reflector.Reflector(client, resource.PEER_REPORTS, notify=lambda _key: self.steer.enqueue("all"))
        self._ledger = epochs.Ledger()
        self.prober = probe.Prober()
        self._lock = threading.Lock()
        self._order = threading.Lock()  # a plan older than an announcement must not be wanted after it
        self._claims: Mapping[str, str] = {}
        self._identity: mesh.HubIdentity | None = None
        self._leaders: dict[str, mesh.Session] = {}
        self._refused: tuple[mesh.Refusal, ...] = ()
        self._cut_off = False
        self._wall = vip_plane.VipPlane()

    def threads(self) -> Mapping[str, Callable[[threading.Event], None]]:
        """Return what ``process.run`` shall run."""
        self.health.enqueue("all")
        return {
            "watch peers": self.peers.run,
            "watch peerreports": self.reports.run,
            "steer": self.steer.run,
            "health": self.health.run,
            "tunnel": self._carrier.run,
            "probe port": self._serve_probes,
        }

    def ready(self) -> str | None:
        """Say why the hub does not relay yet, or None."""
        if self._identity is None:
            return "the hub's own block is not allocated yet: is syncer-hub running?"
        return None if self._carrier.backend else "no WireGuard device yet"

    def _reconcile(self, _key: str) -> float:
        with self._order:
            wanted = self._plan()
            if wanted is not None:
                self._guard()
                self._carrier.want(wanted)
        if wanted is not None:
            self._publish()
        return AGAIN_S

    def _guard(self) -> None:
        """Forward between members alone: before the first peer may send."""
        hub_peer = self.peers.get(f"{self._namespace}/{names.HUB}")
        if hub_peer is not None and self._identity is not None:
            vips = parse.parse_networks(hub_peer.status.vip_cidrs, field="vipCIDRs")
            self._wall.set_base(firewall.HubFirewall(fleet=self._identity.fleet, vips=vips))

    def _plan(self) -> Wanted | None:
        with self._lock:
            hub_peer = self.peers.get(f"{self._namespace}/{names.HUB}")
            if hub_peer is None or not (self.peers.synced.is_set() and self.reports.synced.is_set()):
                return None
            identity = parse.parse_hub_identity(self._carrier.public_key, hub_peer)
            if identity is None:
                return None
            peers, reports = list(self.peers.store.values()), list(self.reports.store.values())
            members, refused = parse.parse_members(self._settings.clusterset, peers, reports)
            members = [self._settle(member) for member in members]
            planned = plan.plan_hub(identity, members, claims=self._claims)
            self._claims, self._identity = planned.claims, identity
            self._report((*refused, *planned.refusals))
            self._watch_members(members, planned.wanted)
            return planned.wanted

    def _settle(self, member: mesh.Member) -> mesh.Member:
        if member.leader is not None:
            self._ledger.observe(member.cluster, epochs.Claim(member.epoch, member.leader.public_key))
        claim = self._ledger.claim(member.cluster)
        if claim is None:
            return member
        return parse.settle(member, epoch=claim.epoch, public_key=claim.public_key)

    def _watch_members(self, members: list[mesh.Member], wanted: Wanted) -> None:
        """Listen to and probe the sessions that the plan took: a report names any address and any key."""
        taken = plan.taken_sessions(members, wanted)
        self._ledger.allow(
            {
                cluster: {address: session.public_key for session in sessions for address in session.addresses}
                for cluster, sessions in taken.items()
            }
        )
        leaders = (
            (cluster, next((one for one in sessions if one.leader), None)) for cluster, sessions in taken.items()
        )
        self._leaders = {cluster: leader for cluster, leader in leaders if leader is not None}
        self.prober.set_targets(session.addresses[0] for session in self._leaders.values() if session.addresses)

    def _on_claim(self, cluster: str, claim: epochs.Claim) -> None:
        """Move a cluster to its new leader before the ack goes out."""
        log.info("new leader announced", extra={"cluster": cluster, "epoch": claim.epoch})
        try:
            with self._order:
                wanted = self._plan()
                if wanted is not None:
                    self._carrier.sync(wanted)
        except (errors.TunnelError, addresses.AddressRefusedError) as err:
            log.warning("the announced leader can't be served yet", extra={"cluster": cluster, "error": str(err)})
        self.steer.enqueue("all")

    def _serve_probes(self, stop: threading.Event) -> None:
        while self._identity is None:
            if stop.wait(0.1):
                return
        responder = probe.Responder(self._ledger, on_claim=self._on_claim)
        probe.Port(self._identity.addresses[0], prober=self.prober, responder=responder).run(stop)

    def _publish(self) -> None:
        """Tell children where the hub is; cnf-hub owns these two fields of its Peer."""
        known = self.peers.get(f"{self._namespace}/{names.HUB}")
        status = {"publicKey": self._carrier.public_key, "endpoints": list(self._settings.endpoints)}
        if known is not None and (known.status.public_key, known.status.endpoints) != tuple(status.values()):
            self._apply_status(names.HUB, status)

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
        verdicts, cut_off = health.judge(observations, now=now)
        if cut_off and not self._cut_off:
            log.error("too many clusters fell silent at once: this hub is the one cut off, nothing is withdrawn")
        self._cut_off = cut_off
        for cluster, reachable in verdicts.items():
            peer = self.peers.get(f"{self._namespace}/{cluster}")
            if peer is not None and (peer.status.health is None or peer.status.health.reachable is not reachable):
                since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
                log.warning("reachable" if reachable else "unreachable", extra={"cluster": cluster})
                self._apply_status(cluster, {"health": {"reachable": reachable, "since": since}})
        return HEALTH_S

    def _apply_status(self, name: str, status: Mapping[str, object]) -> None:
        body = {"metadata": {"name": name, "namespace": self._namespace}, "status": dict(status)}
        self._client.apply(resource.PEERS, body, manager=MANAGER, subresource="status")

    def _report(self, refused: tuple[mesh.Refusal, ...]) -> None:
        if refused != self._refused:
            self._refused = refused
            for refusal in refused:
                log.warning("%s", refusal.message, extra={"subject": refusal.subject, "reason": refusal.reason.value})


def main() -> int:
    """Run until stopped; return the exit status."""
    logs.configure("cnf-hub")
    try:
        settings = read_settings()
        logs.configure("cnf-hub", settings.log_level)
        client = kube_client.Client.in_cluster(user_agent="fleetboard-cnf-hub")
    except (environment.SettingRefusedError, kube_errors.KubeError) as err:
        log.error("%s", err)  # noqa: TRY400 - the sentence says all
        return 1
    registry = prometheus_client.CollectorRegistry()
    kube_metrics.register(registry)
    started: list[Hub] = []
    observed = server.serve(
        port=settings.observe_port,
        registry=registry,
        healthy=lambda: None,
        ready=lambda: started[0].ready() if started else "the hub's key has not been read yet",
    )
    try:
        carrier = tunnel.Tunnel(private_key=wait_for_key(client, settings.namespace))
        hub = Hub(client, settings, carrier)
        registry.register(metrics.TunnelCollector(carrier, hub.prober.states))
        started.append(hub)
        return process.run(hub.threads(), grace_s=cnf_settings.GRACE_S)
    except (kube_errors.KubeError, errors.TunnelError) as err:
        log.error("%s", err)  # noqa: TRY400 - the sentence says all
        return 1
    finally:
        observed.close()
