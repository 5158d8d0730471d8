"""Let the cluster's CoreDNS ask crossdns for our zones, and undo it.

One invariant: CoreDNS is never left worse than it was found. A new configuration counts as set up once every pod of
the Deployment runs it; until then it is being tried, and taken back when CoreDNS does not become available. How far
that went is written on the ConfigMap together with the text, so that a restart goes on where it was.
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
from syncer.member.dns import advice, corefile

log = logging.getLogger(__name__)

SYSTEM = "kube-system"
COREDNS = "coredns"
CUSTOM = "coredns-custom"
KUBE_DNS = "kube-dns"
NODE_LOCAL = "node-local-dns"
SERVICE = "crossdns"

PROGRESS = "fleetboard.io/dns-forwarding"
"""On the ConfigMap that holds our block: ``trying``, ``done`` or ``refused``, and the block's digest."""
RESTARTED_FOR = "fleetboard.io/dns-forwarding"
"""On the Deployment's pods: the digest of the block they were started for."""
OURS = "fleetboard.io/created-by"

CHECK_S = 60.0
SOON_S = 5.0
ROLLOUT_S = 120.0
# With no CoreDNS pod available for so long the cluster has no DNS: don't wait for the rest of the rollout.
OUTAGE_S = 30.0
_POLL_S = 1.0
_ATTEMPTS = 5

SETTLED = Gauge("fleetboard_dns_forwarding_settled", "1 while CoreDNS forwards our zones to crossdns.", registry=None)
ROLLBACKS = Counter(
    "fleetboard_dns_forwarding_rollbacks",
    "Times CoreDNS did not take the forwarding and got its old text back.",
    registry=None,
)


def register(registry: CollectorRegistry) -> None:
    """Show this module's metrics in ``registry``; call once."""
    registry.register(SETTLED)
    registry.register(ROLLBACKS)


class ForwardingState(enum.Enum):
    """How the forwarding stands."""

    SETTLED = "settled"
    WAITING = "waiting"
    UNMANAGED = "unmanaged"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class ForwardingOutcome:
    """What one check found and did; ``sentence`` is for the log."""

    state: ForwardingState
    sentence: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Home:
    """The ConfigMap and key that hold our block, and what they shall hold."""

    config: core.ConfigMap | None
    name: str
    key: str
    text: str

    @property
    def progress(self) -> str:
        return "" if self.config is None else self.config.metadata.annotations.get(PROGRESS, "")

    @property
    def right(self) -> bool:
        return self.config is not None and self.config.data.get(self.key) == self.text


class ForwardingController:
    """Sets up the forwarding and keeps it there; ``remove`` is for the uninstall."""

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
        self._last_sentence = ""

    def run(self, stop: threading.Event) -> None:
        """Check once a minute until ``stop``: upgrades of CoreDNS bring their own Corefile back."""
        while not stop.is_set():
            wait_s = SOON_S
            try:
                outcome = self.check(stop)
                self._report(outcome)
                wait_s = SOON_S if outcome.state is ForwardingState.WAITING else CHECK_S
            except errors.KubeError as err:
                log.warning("DNS forwarding not checked, trying again", extra={"error": str(err)})
            stop.wait(wait_s)

    def check(self, stop: threading.Event) -> ForwardingOutcome:
        """Bring the configuration to what it shall be, and wait until CoreDNS has taken it."""
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
        """Take everything of ours out of CoreDNS' configuration; repeating it does no harm.

        Raises:
            errors.KubeError: the API is away or refuses.
        """
        self._retry(lambda: self._clear(COREDNS, progress=None))
        self._retry(lambda: self._clear(CUSTOM, progress=None))
        self._restart(None)
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
        if home.right and home.progress == f"done {digest}":
            return self._settled(wanted, address)
        if not home.right:
            if not self._available():
                return ForwardingOutcome(
                    ForwardingState.WAITING, f"no pod of Deployment {SYSTEM}/{COREDNS} is available: not touched"
                )
            if wanted.custom is not None and config.data["Corefile"] != wanted.corefile:
                self._write(_Home(config, COREDNS, "Corefile", wanted.corefile), progress=None)
        self._write(home, progress=f"trying {digest}")
        self._restart(digest)
        if not self._await_rollout(stop):
            if stop.is_set():
                return ForwardingOutcome(
                    ForwardingState.WAITING, "stopped while CoreDNS was restarting; goes on at the next start"
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
        self._restart(None)
        ROLLBACKS.inc()
        sentence = _refusal(home.name)
        deployment = self._client.find(resource.DEPLOYMENTS, COREDNS, SYSTEM)
        if deployment is not None:
            regarding = events.reference(resource.DEPLOYMENTS, deployment.metadata)
            self._recorder.emit(regarding, reason="ForwardingRolledBack", message=sentence, type_="Warning")
        return ForwardingOutcome(ForwardingState.REFUSED, sentence)

    def _write(self, home: _Home, *, progress: str | None) -> None:
        """Write the text and how far we are in one go; refused when someone changed the ConfigMap meanwhile."""
        labelled = {"annotations": {PROGRESS: progress}}
        if home.config is None:
            created = {"name": home.name, "namespace": SYSTEM, "labels": {OURS: names.MANAGER}, **labelled}
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
        """Take our block out of one ConfigMap, whatever else was changed in it since."""
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
            log.error("ConfigMap %s/%s: %s", SYSTEM, name, err)  # noqa: TRY400 - the sentence says what to do
            bare = text
        if bare != text:
            changes["Corefile"] = bare
        if progress is None and OURS in config.metadata.labels and not config.data.keys() - changes.keys():
            self._client.delete(resource.CONFIG_MAPS, name, SYSTEM, uid=config.metadata.uid)
            return
        if changes or config.metadata.annotations.get(PROGRESS) != progress:
            metadata = {
                "resourceVersion": config.metadata.resource_version,
                "annotations": {PROGRESS: progress},
            }
            self._client.merge_patch(resource.CONFIG_MAPS, name, SYSTEM, {"metadata": metadata, "data": changes})

    def _restart(self, digest: str | None) -> None:
        """Start CoreDNS' pods anew: kubelet takes up to 90 s to bring a ConfigMap to pods that run already."""
        deployment = self._client.find(resource.DEPLOYMENTS, COREDNS, SYSTEM)
        if deployment is None:
            return
        template = deployment.spec.get("template", {}).get("metadata", {}).get("annotations") or {}
        if template.get(RESTARTED_FOR) != digest:
            patch = {"spec": {"template": {"metadata": {"annotations": {RESTARTED_FOR: digest}}}}}
            self._client.merge_patch(resource.DEPLOYMENTS, COREDNS, SYSTEM, patch)

    def _await_rollout(self, stop: threading.Event) -> bool:
        """Wait until every pod is one of the new configuration and available; False when that fails."""
        began = seen = self._clock()
        while not stop.is_set():
            now = self._clock()
            deployment = self._client.find(resource.DEPLOYMENTS, COREDNS, SYSTEM)
            if deployment is None:
                return False
            if rolled_out(deployment):
                return True
            if deployment.status.get("availableReplicas", 0):
                seen = now
            if now - began > self._rollout_s or now - seen > self._outage_s:
                return False
            stop.wait(_POLL_S)
        return False

    def _available(self) -> bool:
        deployment = self._client.find(resource.DEPLOYMENTS, COREDNS, SYSTEM)
        return deployment is not None and deployment.status.get("availableReplicas", 0) > 0

    def _address(self) -> str | None:
        service = self._client.find(resource.SERVICES, SERVICE, self._namespace)
        address = "" if service is None else service.spec.cluster_ip
        return address if address not in ("", "None") else None

    def _platform(self) -> advice.Platform:
        if self._client.find(resource.DEPLOYMENTS, KUBE_DNS, SYSTEM) is not None:
            return advice.Platform.KUBE_DNS
        try:
            group = msgspec.json.decode(self._client.read("/apis/operator.openshift.io"), type=core.Generic)
        except (errors.NotFoundError, errors.ForbiddenError, msgspec.DecodeError):
            return advice.Platform.UNKNOWN
        return advice.Platform.OPENSHIFT if group.kind == "APIGroup" else advice.Platform.UNKNOWN

    def _retry(self, write: Callable[[], None]) -> None:
        """Repeat a write that reads first while someone else writes at the same time."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return write()
            except errors.ConflictError:
                continue
        return write()

    def _report(self, outcome: ForwardingOutcome) -> None:
        """Log what is new, and show whether it is settled."""
        SETTLED.set(1 if outcome.state is ForwardingState.SETTLED else 0)
        if outcome.sentence != self._last_sentence:
            self._last_sentence = outcome.sentence
            level = (
                logging.INFO if outcome.state in (ForwardingState.SETTLED, ForwardingState.WAITING) else logging.WARNING
            )
            log.log(level, outcome.sentence, extra={"dns_forwarding": outcome.state.value})


def rolled_out(deployment: core.Generic) -> bool:
    """Tell whether every pod of a Deployment is of its newest template, and at least one is available."""
    status = deployment.status
    replicas = deployment.spec.get("replicas", 1)
    wanted, updated = int(1 if replicas is None else replicas), status.get("updatedReplicas", 0)
    current = status.get("observedGeneration", 0) >= deployment.metadata.generation
    return bool(
        current
        and updated >= wanted
        and status.get("replicas", 0) == updated
        and status.get("availableReplicas", 0) >= min(1, wanted)
        and status.get("unavailableReplicas", 0) < max(1, wanted)
    )


def _digest(block: str) -> str:
    return hashlib.sha256(block.encode()).hexdigest()[:16]


def _refusal(name: str) -> str:
    return (
        "CoreDNS did not become available with the forwarding of our zones, so its configuration was put back. See the "
        f"logs of its pods; to try again, remove the annotation {PROGRESS} from ConfigMap {SYSTEM}/{name}"
    )
