"""A member that has joined: everything that watches, reconciles and writes, wired together.

Invariant: each key is reconciled only once everything its decision reads has been listed from this cluster's API. Only
what needs the hub waits for the hub.
"""

from __future__ import annotations

import functools
import importlib.metadata
import threading
import time
from collections.abc import Callable
from typing import Any

from fleetboard.kube.client import Client
from fleetboard.kube.controller import Controller
from fleetboard.kube.reflector import Mirrors
from fleetboard.model import mcs, resource
from syncer.member.clusterset import Clusterset
from syncer.member.exports.controller import ExportController
from syncer.member.exports.sources import Sources
from syncer.member.imports import schema
from syncer.member.imports.controller import ImportController
from syncer.member.join.credential import Credential
from syncer.member.mirror import MirrorController
from syncer.member.probe.controller import ProbeController
from syncer.member.report import networks
from syncer.member.report.controller import ReportController
from syncer.member.settings import MemberSettings
from syncer.member.wakes import WORK_BY_SOURCE, MemberBus, MemberSource, MemberWork

WORKERS = 4
HUB_WORKERS = 8
"""Exports that are written to the hub at once: each needs two round trips, and the hub may be far away."""
STATUS_REST_FACTOR = 2.0
"""A worker that writes statuses rests twice as long as its work took: a status waits for whatever carries traffic."""


class JoinedMember:
    """The parts of a joined member.

    Args:
        settings: The process' settings.
        local: Client of this cluster's API.
        credential: How to reach the hub; a token is stored.
        cluster_uid: UID that distinguishes this cluster from others with its name.

    Raises:
        KubeError: this cluster's API doesn't say which fields a ServiceImport has here.
    """

    def __init__(self, settings: MemberSettings, *, local: Client, credential: Credential, cluster_uid: str) -> None:
        self._settings, self._local, self._credential = settings, local, credential
        self._hub, self._join = credential.connect(), credential.join
        self._bus = MemberBus(WORK_BY_SOURCE)
        cluster, namespace = self._join.cluster, settings.namespace
        self.sources = Sources(
            local,
            bus=self._bus,
            namespace=namespace,
            cluster=cluster,
            kind=schema.newest(local, resource.SERVICE_EXPORTS, known=mcs.VERSIONS),
        )
        self.clusterset = Clusterset(
            self._hub,
            local,
            bus=self._bus,
            clusterset=self._join.clusterset,
            cluster=cluster,
            namespace=namespace,
        )
        self.export_controller = self._make_export_controller()
        self.import_controller = self._make_import_controller()
        self.mirror_controller = MirrorController(local, clusterset=self.clusterset, namespace=namespace)
        self.report_controller = self._make_report_controller(cluster_uid)
        self._probe_controller = self._make_probe_controller()
        self._queues = self._make_queues()
        self._connect()

    def _make_export_controller(self) -> ExportController:
        return ExportController(
            self._local,
            self._hub,
            bus=self._bus,
            sources=self.sources,
            clusterset=self.clusterset,
            cluster=self._join.cluster,
            member_namespace=self._join.member.namespace,
        )

    def _make_import_controller(self) -> ImportController:
        return ImportController(
            self._local,
            bus=self._bus,
            sources=self.sources,
            clusterset=self.clusterset,
            cluster=self._join.cluster,
            accepted=self._settings.imports,
            import_schema=schema.read_import(self._local),
        )

    def _make_report_controller(self, cluster_uid: str) -> ReportController:
        return ReportController(
            self._local,
            self._hub,
            bus=self._bus,
            credential=self._credential,
            clusterset=self.clusterset,
            namespace=self._settings.namespace,
            cluster_uid=cluster_uid,
            networks=functools.partial(networks.discover, self._local, self._settings.networks),
            version=importlib.metadata.version("fleetboard"),
        )

    def _make_probe_controller(self) -> ProbeController | None:
        if not self._settings.probe_interval_s:
            return None
        return ProbeController(
            self._local,
            clusterset=self.clusterset,
            cluster=self._join.cluster,
            namespace=self._settings.namespace,
            interval_s=self._settings.probe_interval_s,
        )

    def _make_queues(self) -> dict[MemberWork, Controller[Any]]:
        exported = [reflector.synced for reflector in self.sources.reflectors]
        copies = [reflector.synced for reflector in self.clusterset.local_reflectors]
        imported = [reflector.synced for reflector in self.import_controller.reflectors]
        hub = [self.clusterset.peers.synced, self.clusterset.services.synced]
        export_controller, import_controller = self.export_controller, self.import_controller
        return {
            MemberWork.EXPORT: Controller(
                "exports", export_controller.reconcile, workers=HUB_WORKERS, wait_for=[*exported, *copies]
            ),
            # One worker each. A quick API takes 40 statuses a second; at an overloaded one, statuses are what waits.
            MemberWork.EXPORT_STATUS: Controller(
                "conditions",
                export_controller.write_status,
                wait_for=[*exported, *copies],
                rest_factor=STATUS_REST_FACTOR,
            ),
            MemberWork.IMPORT_STATUS: Controller(
                "import status", import_controller.write_status, wait_for=imported, rest_factor=STATUS_REST_FACTOR
            ),
            MemberWork.IMPORT: Controller(
                "imports", import_controller.reconcile, workers=WORKERS, wait_for=[*exported, *copies, *imported]
            ),
            MemberWork.MIRROR: Controller(
                "copies", self.mirror_controller.reconcile, workers=WORKERS, wait_for=[*copies, *hub]
            ),
        }

    def _connect(self) -> None:
        for work, queue in self._queues.items():
            self._bus.connect(work, queue.enqueue)
        self._bus.connect(MemberWork.TIME_EXPORT, self.export_controller.stopwatch.start)
        self._bus.connect(MemberWork.TIME_IMPORT, self.import_controller.stopwatch.start)
        self._bus.connect(MemberWork.TIME_MIRROR, self.mirror_controller.stopwatch.start)
        self._bus.connect(MemberWork.PROBE, self._probe_controller.enqueue if self._probe_controller else _ignore)
        self._bus.connect(MemberWork.REPORT, self.report_controller.wake)
        self._bus.connect(MemberWork.ALL_EXPORTS, self._wake_exports)
        self._bus.connect(MemberWork.ALL_IMPORTS, self._wake_imports)
        self._bus.connect(MemberWork.HUB_WATCHES, self._renew_hub_watches)

    @property
    def local_reflectors(self) -> list[Mirrors]:
        """Those of this cluster's API."""
        return [
            *self.sources.reflectors,
            *self.clusterset.local_reflectors,
            *self.import_controller.reflectors,
            *self.report_controller.reflectors,
        ]

    @property
    def hub_reflectors(self) -> list[Mirrors]:
        """Those of the hub's API."""
        return [*self.clusterset.hub_reflectors, *self.export_controller.reflectors]

    def threads(self) -> dict[str, Callable[[threading.Event], None]]:
        """Return the threads to run, by name."""
        local = {f"reflector {number}": reflector.run for number, reflector in enumerate(self.local_reflectors)}
        hub = {f"hub reflector {number}": reflector.run for number, reflector in enumerate(self.hub_reflectors)}
        queues = {f"queue {work.name}": queue.run for work, queue in self._queues.items()}
        probe = self._probe_controller
        return {
            **local,
            **hub,
            **queues,
            **({"probe": probe.run, "probe echoes": probe.answer} if probe is not None else {}),
            "report": self.report_controller.run,
            "credential": self._credential.run,
            "first contact": self._first_contact,
        }

    def unready_reason(self) -> str | None:
        """Return why this member isn't ready; an unreachable hub is not a reason."""
        if not all(reflector.synced.is_set() for reflector in self.local_reflectors):
            return "this cluster's API has not been read yet"
        return None

    def hub_age_s(self) -> float:
        """Return the seconds since the hub's last answer."""
        return time.monotonic() - max(self.clusterset.last_contact, self.report_controller.last_sent)

    def _first_contact(self, stop: threading.Event) -> None:
        """Wake everything once the hub was listed: until then, absence there meant nothing."""
        for reflector in self.hub_reflectors:
            while not reflector.synced.wait(0.1):
                if stop.is_set():
                    return
        self._bus.wake(MemberSource.HUB_SYNCED)

    def _wake_exports(self, _key: None) -> None:
        for key in [*self.sources.service_keys(), *self.export_controller.service_keys()]:
            self._queues[MemberWork.EXPORT].enqueue(key)

    def _wake_imports(self, _key: None) -> None:
        for key in self.import_controller.service_keys():
            self._bus.wake(MemberSource.IMPORT, key)

    def _renew_hub_watches(self, _key: None) -> None:
        for reflector in self.hub_reflectors:
            reflector.renew()


def _ignore(_key: object) -> None:
    """Do nothing."""
