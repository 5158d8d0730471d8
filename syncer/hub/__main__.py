"""``python -m syncer.hub``: admits clusters, allocates addresses, copies endpoints and merges exports.

One invariant: of all replicas at most one decides (Lease ``syncer-hub``); the others keep their view warm, so that a
successor begins with what it already knows.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry

from fleetboard.kube import errors, events
from fleetboard.kube import metrics as kube_metrics
from fleetboard.kube.client import Client
from fleetboard.kube.controller import Controller
from fleetboard.kube.lease import Elector
from fleetboard.model import addresses, membership, names, resource
from fleetboard.runtime import environment, logs, process, server
from syncer.hub.copies.controller import CopyController
from syncer.hub.members import MemberController
from syncer.hub.metrics import HubMetrics, ViewCollector
from syncer.hub.services import FleetServiceController
from syncer.hub.view import Notices, Terms, View, name_of

log = logging.getLogger(__name__)

LEASE = "syncer-hub"
SWEEP_S = 600.0
MTU_RANGE = (1280, 8920)


@dataclasses.dataclass(frozen=True, slots=True)
class HubSettings:
    """The process' environment, parsed."""

    namespace: str
    terms: Terms
    identity: str
    port: int


def read_settings(environ: Mapping[str, str] = os.environ) -> HubSettings:
    """Read the environment.

    Raises:
        SettingRefusedError: naming the variable, its value and what was expected.
    """
    clusterset = environment.read("CLUSTERSET", "default", parse=membership.parse_clusterset, environ=environ)
    plans = environment.read("FLEET_CIDR", None, parse=parse_plans, environ=environ)
    mtu = environment.read("MTU", 1360, parse=parse_mtu, environ=environ)
    return HubSettings(
        namespace=environment.read("NAMESPACE", names.NAMESPACE, environ=environ),
        terms=Terms(clusterset, plans, mtu),
        identity=environment.read("POD_NAME", socket.gethostname(), environ=environ),
        port=environment.read("OBSERVE_PORT", names.OBSERVE_PORT, parse=environment.port, environ=environ),
    )


def parse_plans(text: str) -> tuple[addresses.FleetPlan, ...]:
    """Parse the fleet CIDR, or two of them: one a family, separated by a comma."""
    plans = tuple(addresses.parse_fleet_cidr(part, field="fleet CIDR") for part in environment.words(text))
    if not plans or len({plan.fleet.version for plan in plans}) < len(plans):
        raise ValueError("expected one CIDR, or one of IPv4 and one of IPv6 separated by a comma")
    return plans


def parse_mtu(text: str) -> int:
    """Parse the fleet's MTU."""
    low, high = MTU_RANGE
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ValueError(f"expected a number of bytes between {low} and {high}")
    return int(text)


class LeadershipTerm:
    """The controllers of one term of leadership."""

    def __init__(self, controllers: Mapping[str, Controller], *, on_death: Callable[[BaseException], None]) -> None:
        self._controllers = controllers
        self._on_death = on_death
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin to work."""
        for name, controller in self._controllers.items():
            threading.Thread(target=self._run, args=(controller,), name=name, daemon=True).start()

    def end(self) -> None:
        """Take no further key; what is under way ends by itself."""
        self._stop.set()

    def enqueue(self, name: str, key: str) -> None:
        """Give a key to one of the controllers."""
        self._controllers[name].enqueue(key)

    def _run(self, controller: Controller) -> None:
        try:
            controller.run(self._stop)
        except Exception as err:
            log.exception("a controller died")
            self._on_death(err)


class HubSyncer:
    """All of syncer-hub but its process.

    Attributes:
        exit_status: What the process ends with, unless a thread died.
    """

    def __init__(self, client: Client, settings: HubSettings, registry: CollectorRegistry) -> None:
        notices = Notices(
            peer=self._peer_changed,
            report=self._report_changed,
            export=lambda key: self._fleet_service_controller.export_changed(key),
            slice=lambda key: self._copy_controller.slice_changed(key),
            service=lambda key: self._fleet_service_controller.service_changed(key),
            record=lambda key: None,
        )
        self.exit_status = 0
        self._view = View(client, settings.terms, notices, now=lambda: datetime.datetime.now(datetime.UTC))
        recorder = events.Recorder(client, LEASE)
        metrics = HubMetrics(registry)
        self._member_controller = MemberController(self._view, recorder=recorder)
        self._copy_controller = CopyController(self._view, metrics=metrics, enqueue=self._enqueue_to("slices"))
        self._fleet_service_controller = FleetServiceController(
            self._view, metrics=metrics, recorder=recorder, enqueue=self._enqueue_to("services")
        )
        self._elector = Elector(
            client, namespace=settings.namespace, name=LEASE, identity=settings.identity, duration_s=15
        )
        self._term: LeadershipTerm | None = None
        self._fault: BaseException | None = None
        registry.register(ViewCollector(self._view, leading=lambda: self._elector.leading))

    @property
    def threads(self) -> dict[str, Callable[[threading.Event], None]]:
        """What the process runs."""
        reflectors = {name: reflector.run for name, reflector in self._view.reflectors.items()}
        return {**reflectors, "lease": self._campaign, "supervisor": self._supervise}

    def ready(self) -> str | None:
        """Say what keeps us from being of use."""
        if self._fault is not None:
            return str(self._fault)
        missing = [name for name, reflector in self._view.reflectors.items() if not reflector.synced.is_set()]
        return f"not listed yet: {', '.join(missing)}" if missing else None

    def _campaign(self, stop: threading.Event) -> None:
        # Leading without knowing anything would only keep another replica from it.
        for event in self._view.synced:
            while not event.wait(0.2):
                if stop.is_set():
                    return
        try:
            self._member_controller.check_fleet()
        except environment.SettingRefusedError as err:
            log.error("can't start: %s", err)  # noqa: TRY400 - the sentence says all
            self.exit_status = 1
            stop.set()
            return
        self._elector.run(stop, on_start=self._begin, on_stop=self._end)

    def _begin(self) -> None:
        controllers = {
            "members": Controller("members", self._member_controller.reconcile),
            "slices": Controller("slices", self._copy_controller.reconcile, workers=4),
            # Two writes each, one after the other: with four, a busy API alone would hold it at 20 a second.
            "services": Controller("services", self._fleet_service_controller.reconcile, workers=8),
            "claims": Controller("claims", self._sweep),
        }
        term = LeadershipTerm(controllers, on_death=self._fail)
        self._term = term
        for name, keys in (
            ("members", self._member_controller.begin()),
            ("slices", self._copy_controller.begin()),
            ("services", self._fleet_service_controller.begin()),
            ("claims", ["sweep"]),
        ):
            for key in keys:
                term.enqueue(name, key)
        term.start()

    def _end(self) -> None:
        term, self._term = self._term, None
        if term is not None:
            term.end()

    def _sweep(self, _key: str) -> float:
        self._view.claims.sweep()
        return SWEEP_S

    def _fail(self, err: BaseException) -> None:
        self._fault = err

    def _supervise(self, stop: threading.Event) -> None:
        """End the process when a controller died."""
        while not stop.wait(0.5):
            if self._fault is not None:
                raise self._fault

    def _enqueue_to(self, name: str) -> Callable[[str], None]:
        def enqueue(key: str) -> None:
            term = self._term
            if term is not None:
                term.enqueue(name, key)

        return enqueue

    def _peer_changed(self, key: str) -> None:
        cluster = name_of(key)
        self._enqueue_to("members")(cluster)
        self._copy_controller.peer_changed(cluster)
        self._fleet_service_controller.peer_changed(cluster)

    def _report_changed(self, key: str) -> None:
        cluster = self._view.cluster_of(key.rpartition("/")[0])
        if cluster is not None:
            self._enqueue_to("members")(cluster)


def ensure_namespace(client: Client, terms: Terms) -> None:
    """Make the clusterset's namespace, if it isn't there."""
    if client.find(resource.NAMESPACES, terms.namespace) is None:
        labels = {names.LABEL_CLUSTERSET: terms.clusterset}
        rendered = membership.render_namespace(terms.namespace, labels)
        try:
            client.create(resource.NAMESPACES, rendered)
        except errors.AlreadyExistsError:
            log.debug("the clusterset's namespace was made by another")


def main() -> int:
    """Run until stopped; return the exit status."""
    try:
        logs.configure(LEASE, os.environ.get("LOG_LEVEL", "info"))
        settings = read_settings()
        client = Client.in_cluster(user_agent=LEASE)
        ensure_namespace(client, settings.terms)
    except (ValueError, errors.KubeError) as err:
        log.error("can't start: %s", err)  # noqa: TRY400 - the sentence says all
        return 1
    registry = CollectorRegistry()
    kube_metrics.register(registry)
    hub = HubSyncer(client, settings, registry)
    observer = server.serve(port=settings.port, registry=registry, healthy=lambda: None, ready=hub.ready)
    try:
        return process.run(hub.threads) or hub.exit_status
    finally:
        observer.close()
        client.close()


if __name__ == "__main__":
    sys.exit(main())
