"""syncer-hub, whole but its process: the view, the controllers, and the Lease that lets one replica decide.

Invariant: of all replicas at most one decides (Lease ``syncer-hub``). The others keep their view warm, so that a
successor starts with what it already knows.
"""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from fleetboard.kube import events
from fleetboard.kube.client import Client
from fleetboard.kube.controller import Controller
from fleetboard.kube.lease import Elector
from fleetboard.runtime import environment
from syncer.hub.copies.controller import CopyController
from syncer.hub.members import MemberController
from syncer.hub.metrics import HubMetrics, ViewCollector
from syncer.hub.services import FleetServiceController
from syncer.hub.settings import HubSettings
from syncer.hub.term import CurrentTerm, HubQueue
from syncer.hub.view import View
from syncer.hub.wakes import WORK_BY_SOURCE, HubBus, HubWork

log = logging.getLogger(__name__)

LEASE = "syncer-hub"
SWEEP_S = 600.0


class HubSyncer:
    """All of syncer-hub but its process.

    Attributes:
        exit_status: What the process ends with, unless a thread died.
    """

    def __init__(self, client: Client, settings: HubSettings, registry: CollectorRegistry) -> None:
        bus, recorder, metrics = HubBus(WORK_BY_SOURCE), events.Recorder(client, LEASE), HubMetrics(registry)
        self.exit_status = 0
        self._current_term = CurrentTerm()
        self._view = View(client, settings.clusterset, bus, now=_now)
        self._member_controller = MemberController(self._view, recorder=recorder)
        self._copy_controller = CopyController(
            self._view, metrics=metrics, enqueue=self._current_term.to(HubQueue.COPIES)
        )
        self._fleet_service_controller = FleetServiceController(
            self._view, metrics=metrics, recorder=recorder, enqueue=self._current_term.to(HubQueue.SERVICES)
        )
        self._elector = Elector(
            client, namespace=settings.namespace, name=LEASE, identity=settings.identity, duration_s=15
        )
        self._connect(bus)
        registry.register(ViewCollector(self._view, leading=lambda: self._elector.leading))

    def _connect(self, bus: HubBus) -> None:
        bus.connect(HubWork.MEMBER, self._current_term.to(HubQueue.MEMBERS))
        bus.connect(HubWork.MEMBER_COPIES, self._copy_controller.peer_changed)
        bus.connect(HubWork.MEMBER_SERVICES, self._fleet_service_controller.peer_changed)
        bus.connect(HubWork.COPY, self._copy_controller.slice_changed)
        bus.connect(HubWork.EXPORT, self._fleet_service_controller.export_changed)
        bus.connect(HubWork.SERVICE, self._current_term.to(HubQueue.SERVICES))

    @property
    def threads(self) -> dict[str, Callable[[threading.Event], None]]:
        """Return the threads to run, by name."""
        reflectors = {name: reflector.run for name, reflector in self._view.reflectors.items()}
        return {**reflectors, "lease": self._campaign, "supervisor": self._supervise}

    def unready_reason(self) -> str | None:
        """Return why this process isn't ready."""
        if self._current_term.fault is not None:
            return str(self._current_term.fault)
        missing = [name for name, reflector in self._view.reflectors.items() if not reflector.synced.is_set()]
        return f"not listed yet: {', '.join(missing)}" if missing else None

    def _campaign(self, stop: threading.Event) -> None:
        # A leader that knows nothing would only keep another replica from leading.
        for event in self._view.synced:
            while not event.wait(0.2):
                if stop.is_set():
                    return
        try:
            self._member_controller.check_fleet()
        except environment.SettingRefusedError as err:
            log.error("could not start: %s", err)
            self.exit_status = 1
            stop.set()
            return
        self._elector.run(stop, on_start=self._begin, on_stop=self._current_term.end)

    def _begin(self) -> None:
        controllers = {
            HubQueue.MEMBERS: Controller("members", self._member_controller.reconcile),
            HubQueue.COPIES: Controller("slices", self._copy_controller.reconcile, workers=4),
            # Two writes each, one after the other: with four workers, a busy API would limit them to 20 a second.
            HubQueue.SERVICES: Controller("services", self._fleet_service_controller.reconcile, workers=8),
            HubQueue.CLAIMS: Controller("claims", self._sweep),
        }
        list_keys: dict[HubQueue, Callable[[], list[str]]] = {
            HubQueue.MEMBERS: self._member_controller.begin,
            HubQueue.COPIES: self._copy_controller.begin,
            HubQueue.SERVICES: self._fleet_service_controller.begin,
            HubQueue.CLAIMS: lambda: ["sweep"],
        }
        self._current_term.begin(controllers, list_keys)

    def _sweep(self, _key: str) -> float:
        self._view.claims.sweep()
        return SWEEP_S

    def _supervise(self, stop: threading.Event) -> None:
        """End the process when a controller died."""
        while not stop.wait(0.5):
            if self._current_term.fault is not None:
                raise self._current_term.fault


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
