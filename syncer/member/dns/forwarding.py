"""Lets the cluster's CoreDNS forward the fleet's zones to crossdns, and undoes that.

Invariant: CoreDNS is never left worse than before. A new configuration is settled once every pod of the Deployment runs
it. Until then it is being tried, and is rolled back if CoreDNS does not become available. The progress is written to
the ConfigMap together with the text, so that a restart continues there.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge

from fleetboard.kube import errors, events
from fleetboard.kube.client import Client
from fleetboard.model import core, names, resource
from syncer.member.dns import advice, corefile, rollout
from syncer.member.dns.rollout import COREDNS, SYSTEM

log = logging.getLogger(__name__)

CUSTOM = "coredns-custom"
KUBE_DNS = "kube-dns"
NODE_LOCAL = "node-local-dns"
SERVICE = "crossdns"

PROGRESS = "fleetboard.io/dns-forwarding"
"""On the ConfigMap with our block: ``trying``, ``done`` or ``refused``, and the block's digest."""
OURS = "fleetboard.io/created-by"

CHECK_S = 60.0
"""A Corefile that an upgrade restored has no forwarding for at most this long."""
SOON_S = 5.0
ROLLOUT_S = 120.0
# Without an available CoreDNS pod the cluster has no DNS: do not wait for the whole rollout then.
OUTAGE_S = 30.0
_ATTEMPTS = 5

SETTLED = Gauge(
    "fleetboard_dns_forwarding_settled", "1 while CoreDNS forwards the fleet's zones to crossdns.", registry=None
)
ROLLBACKS = Counter(
    "fleetboard_dns_forwarding_rollbacks",
    "Times that CoreDNS failed with the forwarding and was rolled back.",
    registry=None,
)


def register(registry: CollectorRegistry) -> None:
    """Register this module's metrics; call once."""
    registry.register(SETTLED)
    registry.register(ROLLBACKS)


class ForwardingState(enum.Enum):
    """The state of the forwarding."""

    SETTLED = "settled"
    WAITING = "waiting"
    UNMANAGED = "unmanaged"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class ForwardingOutcome:
    """The result of one check; ``message`` is for the log."""

    state: ForwardingState
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Home:
    """The ConfigMap and key for our block, and the wanted text."""

    config: core.ConfigMap | None
    name: str
    key: str
    text: str

    @property
    def progress(self) -> str:
        return "" if self.config is None else self.config.metadata.annotations.get(PROGRESS, "")

    @property
    def is_current(self) -> bool:
        return self.config is not None and self.config.data.get(self.key) == self.text


class ForwardingController:
    """Sets up the forwarding and maintains it; the uninstall calls ``remove``."""

    def __init__(
        self,
        client: Client,
        *,
        namespace: str = names.NAMESPACE,
        zones: Sequence[str] = names.ZONES,
        recorder: events.Recorder | None = None,
        rollout_s: float = ROLLOUT_S,
        outage_s: float = OUTAGE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._namespace, self._zones = client, namespace, tuple(zones)
        self._recorder = recorder or events.Recorder(client, "syncer")
        self._rollout_s, self._outage_s, self._clock = rollout_s, outage_s, clock
        self._last_message = ""

    def run(self, stop: threading.Event) -> None:
        """Check once a minute until ``stop``: upgrades of CoreDNS restore their own Corefile."""
        while not stop.is_set():
            wait_s = SOON_S
            try:
                outcome = self.check(stop)
                self._report(outcome)
                wait_s = SOON_S if outcome.state is ForwardingState.WAITING else CHECK_S
            except errors.KubeError as err:
                log.warning("could not check the DNS forwarding, retrying", extra={"error": str(err)})
            stop.wait(wait_s)

    def check(self, stop: threading.Event) -> ForwardingOutcome:
        """Bring the configuration to its plan, and wait until CoreDNS runs with it."""
        address = self._address()
        if address is None:
            return ForwardingOutcome(ForwardingState.WAITING, f"Service {self._namespace}/{SERVICE} has no address yet")
        config = self._client.find(resource.CONFIG_MAPS, COREDNS, SYSTEM)
        deployment = self._client.find(resource.DEPLOYMENTS, COREDNS, SYSTEM)
        if config is None or deployment is None or "Corefile" not in config.data:
            return ForwardingOutcome(
                ForwardingState.UNMANAGED, advice.advise(self._platform(), address=address, zones=self._zones)
            )
        custom = self._client.find(resource.CONFIG_MAPS, CUSTOM, SYSTEM)
        try:
            wanted = corefile.plan(
                config.data["Corefile"], custom.data if custom else {}, address=address, zones=self._zones
            )
        except corefile.CorefileRefusedError as err:
            hint = advice.advise(advice.Platform.UNKNOWN, address=address, zones=self._zones)
            return ForwardingOutcome(ForwardingState.REFUSED, f"ConfigMap {SYSTEM}/{COREDNS}: {err}. {hint}")
        if not wanted.block:
            self.remove()
            return ForwardingOutcome(ForwardingState.REFUSED, ". ".join(wanted.notes))
        return self._set_up(wanted, config, custom, address=address, stop=stop)

    def remove(self) -> None:
        """Remove our blocks from CoreDNS' configuration; idempotent.

        Raises:
            KubeError: the API can't be reached or refuses.
        """
        self._retry(lambda: self._clear(COREDNS, progress=None))
        self._retry(lambda: self._clear(CUSTOM, progress=None))
        rollout.restart(self._client, None)
        SETTLED.set(0)

    def _set_up(
        self,
        wanted: corefile.CorefilePlan,
        config: core.ConfigMap,
        custom: core.ConfigMap | None,
        *,
        address: str,
        stop: threading.Event,
    ) -> ForwardingOutcome:
        digest = _digest(wanted.block)
        if wanted.custom is None:
            home = _Home(config, COREDNS, "Corefile", wanted.corefile)
        else:
            home = _Home(custom, CUSTOM, corefile.CUSTOM_KEY, wanted.custom)
        if home.progress == f"refused {digest}":
            return ForwardingOutcome(ForwardingState.REFUSED, _refusal(home.name))
        if home.is_current and home.progress == f"done {digest}":
            return self._settled(wanted, address)
        if not home.is_current:
            if not rollout.is_available(self._client):
                return ForwardingOutcome(
                    ForwardingState.WAITING,
                    f"no pod of Deployment {SYSTEM}/{COREDNS} is available: its configuration is left alone",
                )
            if wanted.custom is not None and config.data["Corefile"] != wanted.corefile:
                self._write(_Home(config, COREDNS, "Corefile", wanted.corefile), progress=None)
        self._write(home, progress=f"trying {digest}")
        rollout.restart(self._client, digest)
        limits = {"rollout_s": self._rollout_s, "outage_s": self._outage_s}
        if not rollout.wait(self._client, stop, clock=self._clock, **limits):
            if stop.is_set():
                return ForwardingOutcome(
                    ForwardingState.WAITING, "stopped while CoreDNS was restarting; the next start continues"
                )
            return self._roll_back(home, digest)
        self._annotate(home.name, f"done {digest}")
        return self._settled(wanted, address)

    def _settled(self, wanted: corefile.CorefilePlan, address: str) -> ForwardingOutcome:
        sentences = [f"CoreDNS forwards to crossdns at {address}", *wanted.notes]
        if self._client.find(resource.DAEMON_SETS, NODE_LOCAL, SYSTEM) is not None:
            sentences.append(advice.advise_nodelocal(address=address, zones=self._zones))
        return ForwardingOutcome(ForwardingState.SETTLED, ". ".join(sentences))

    def _roll_back(self, home: _Home, digest: str) -> ForwardingOutcome:
        self._retry(lambda: self._clear(home.name, progress=f"refused {digest}"))
        rollout.restart(self._client, None)
        ROLLBACKS.inc()
        message = _refusal(home.name)
        deployment = self._client.find(resource.DEPLOYMENTS, COREDNS, SYSTEM)
        if deployment is not None:
            regarding = events.reference(resource.DEPLOYMENTS, deployment.metadata)
            self._recorder.emit(regarding, reason="ForwardingRolledBack", message=message, type_="Warning")
        return ForwardingOutcome(ForwardingState.REFUSED, message)

    def _write(self, home: _Home, *, progress: str | None) -> None:
        """Write text and progress in one request, which conflicts if someone changed the ConfigMap meanwhile."""
        labelled = {"annotations": {PROGRESS: progress}}
        if home.config is None:
            created = {"name": home.name, "namespace": SYSTEM, "labels": {OURS: names.MANAGED_BY}, **labelled}
            self._client.create(resource.CONFIG_MAPS, {"metadata": created, "data": {home.key: home.text}})
            return
        version = {"resourceVersion": home.config.metadata.resource_version}
        patch = {"metadata": {**version, **labelled}, "data": {home.key: home.text}}
        self._client.merge_patch(resource.CONFIG_MAPS, home.name, SYSTEM, patch)

    def _annotate(self, name: str, progress: str) -> None:
        self._client.merge_patch(
            resource.CONFIG_MAPS, name, SYSTEM, {"metadata": {"annotations": {PROGRESS: progress}}}
        )

    def _clear(self, name: str, *, progress: str | None) -> None:
        """Remove our block from one ConfigMap, whatever else changed in it since."""
        config = self._client.find(resource.CONFIG_MAPS, name, SYSTEM)
        if config is None:
            return
        changes: dict[str, str | None] = {}
        if corefile.CUSTOM_KEY in config.data:
            changes[corefile.CUSTOM_KEY] = None
        text = config.data.get("Corefile", "")
        try:
            bare = corefile.remove(text)
        except corefile.CorefileRefusedError as err:
            log.error("ConfigMap %s/%s: %s", SYSTEM, name, err)
            bare = text
        if bare != text:
            changes["Corefile"] = bare
        if progress is None and OURS in config.metadata.labels and not config.data.keys() - changes.keys():
            self._client.delete(resource.CONFIG_MAPS, name, SYSTEM, uid=config.metadata.uid)
            return
        if changes or config.metadata.annotations.get(PROGRESS) != progress:
            version = config.metadata.resource_version
            metadata = {"resourceVersion": version, "annotations": {PROGRESS: progress}}
            self._client.merge_patch(resource.CONFIG_MAPS, name, SYSTEM, {"metadata": metadata, "data": changes})

    def _address(self) -> str | None:
        service = self._client.find(resource.SERVICES, SERVICE, self._namespace)
        address = "" if service is None else service.spec.cluster_ip
        return address if address not in ("", "None") else None

    def _platform(self) -> advice.Platform:
        if self._client.find(resource.DEPLOYMENTS, KUBE_DNS, SYSTEM) is not None:
            return advice.Platform.KUBE_DNS
        try:
            group = msgspec.json.decode(self._client.read("/apis/operator.openshift.io"), type=core.PlainObject)
        except (errors.NotFoundError, errors.ForbiddenError, msgspec.DecodeError):
            return advice.Platform.UNKNOWN
        return advice.Platform.OPENSHIFT if group.kind == "APIGroup" else advice.Platform.UNKNOWN

    def _retry(self, write: Callable[[], None]) -> None:
        """Repeat a read and write while others write at the same time."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return write()
            except errors.ConflictError:
                continue
        return write()

    def _report(self, outcome: ForwardingOutcome) -> None:
        """Log a changed outcome, and set the metric."""
        SETTLED.set(1 if outcome.state is ForwardingState.SETTLED else 0)
        if outcome.message != self._last_message:
            self._last_message = outcome.message
            level = (
                logging.INFO if outcome.state in (ForwardingState.SETTLED, ForwardingState.WAITING) else logging.WARNING
            )
            log.log(level, outcome.message, extra={"dns_forwarding": outcome.state.value})


def _digest(block: str) -> str:
    return hashlib.sha256(block.encode()).hexdigest()[:16]


def _refusal(name: str) -> str:
    return (
        "CoreDNS did not become available with the forwarding of the fleet's zones, so it was rolled back. See the "
        f"logs of its pods; to try again, remove the annotation {PROGRESS} from ConfigMap {SYSTEM}/{name}"
    )
