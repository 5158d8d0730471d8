"""A member that has joined: everything that watches, reconciles and writes, wired together.

One invariant: each key is reconciled only once what its decision reads was read from this cluster's API; what needs
the hub waits for the hub alone.
"""

from __future__ import annotations

import importlib.metadata
import threading
import time
from collections.abc import Callable

from fleetboard.kube.client import Client
from fleetboard.kube.controller import Controller
from fleetboard.kube.reflector import Reflector
from fleetboard.model import mcs, resource
from syncer.member import clusterset as clusterset_
from syncer.member import mirror
from syncer.member.exports import sources
from syncer.member.exports.controller import ExportController
from syncer.member.imports import plan, schema
from syncer.member.imports.controller import ImportController
from syncer.member.join.credential import Credential
from syncer.member.probe.controller import ProbeController
from syncer.member.report import networks
from syncer.member.report.controller import ReportController
from syncer.member.settings import MemberSettings

WORKERS = 4
HUB_WORKERS = 8
"""Exports that are written to the hub at once: each needs two round trips, and the hub may be far away."""


class JoinedMember:
    """The parts of a joined member.

    Args:
        settings: The process' settings.
        local: Client of this cluster's API.
        credential: How to reach the hub; a token is stored.
        cluster_uid: What tells this cluster from others of its name.

    Raises:
        errors.KubeError: this cluster's API doesn't say which fields a ServiceImport has here.
    """

    def __init__(self, settings: MemberSettings, *, local: Client, credential: Credential, cluster_uid: str) -> None:
        joined, hub = credential.join, credential.connect()
        cluster, namespace = joined.cluster, settings.namespace
        imports_kind = schema.newest(local, resource.SERVICE_IMPORTS, known=mcs.VERSIONS)
        exports_kind = schema.newest(local, resource.SERVICE_EXPORTS, known=mcs.VERSIONS)
        described = schema.read(local, imports_kind)

        def has(*path: str) -> bool:
            return schema.find_field(described, imports_kind.kind, path)

        self._cluster, self._credential = cluster, credential
        self.sources = sources.Sources(
            local, namespace=namespace, cluster=cluster, notify=self._source_changed, kind=exports_kind
        )
        self.clusterset = clusterset_.Clusterset(
            hub,
            local,
            clusterset=joined.clusterset,
            cluster=cluster,
            namespace=namespace,
            service_changed=self._service_changed,
            original_changed=self._original_changed,
            peer_changed=self._peer_changed,
        )
        self.export_controller = ExportController(
            local,
            hub,
            sources=self.sources,
            clusterset=self.clusterset,
            cluster=cluster,
            member_namespace=joined.member.namespace,
            changed=lambda key: self._export_queue.enqueue(key),
            delivered=lambda key: self._condition_queue.enqueue(key),
        )
        self.import_controller = ImportController(
            local,
            sources=self.sources,
            clusterset=self.clusterset,
            cluster=cluster,
            accepted=settings.imports,
            changed=self._import_changed,
            carried_out=lambda key: self._import_status_queue.enqueue(key),
            slice_objects=has("status", "endpointSliceObjects"),
            kind=imports_kind,
            fields=frozenset(name for name in plan.OPTIONAL_FIELDS if has("spec", name)),
        )
        self.mirror_controller = mirror.MirrorController(local, clusterset=self.clusterset, namespace=namespace)
        self.report_controller = ReportController(
            local,
            hub,
            settings=joined,
            clusterset=self.clusterset,
            namespace=namespace,
            cluster_uid=cluster_uid,
            networks=lambda: networks.discover(local, settings.networks),
            version=importlib.metadata.version("fleetboard"),
            problem=lambda: credential.problem,
            returned=self._hub_returned,
        )
        self._probe_controller: ProbeController | None = None
        if settings.probe_interval_s:
            self._probe_controller = ProbeController(
                local,
                clusterset=self.clusterset,
                cluster=cluster,
                namespace=namespace,
                interval_s=settings.probe_interval_s,
            )
        self._controllers()

    def _controllers(self) -> None:
        own = [one.synced for one in self.sources.reflectors]
        copies = [one.synced for one in self.clusterset.local_reflectors]
        there = [one.synced for one in self.import_controller.reflectors]
        heard = [self.clusterset.peers.synced, self.clusterset.services.synced]
        self._export_queue = Controller(
            "exports", self.export_controller.reconcile, workers=HUB_WORKERS, wait_for=[*own, *copies]
        )
        # One worker each, which rests: what is service of a service waits for whatever carries traffic. A quick API
        # takes 40 a second of these; in one that is slow, because it has too much to do, they are the ones that wait.
        self._condition_queue = Controller(
            "conditions", self.export_controller.write_status, wait_for=[*own, *copies], rest=2
        )
        self._import_status_queue = Controller(
            "import status", self.import_controller.write_status, wait_for=there, rest=2
        )
        self._import_queue = Controller(
            "imports", self.import_controller.reconcile, workers=WORKERS, wait_for=[*own, *copies, *there]
        )
        self._copy_queue = Controller(
            "copies", self.mirror_controller.reconcile, workers=WORKERS, wait_for=[*copies, *heard]
        )

    @property
    def local_reflectors(self) -> list[Reflector[object]]:
        """Those of this cluster's API."""
        return [
            *self.sources.reflectors,
            *self.clusterset.local_reflectors,
            *self.import_controller.reflectors,
            *self.report_controller.reflectors,
        ]

    @property
    def remote_reflectors(self) -> list[Reflector[object]]:
        """Those of the hub's API."""
        return [*self.clusterset.remote_reflectors, *self.export_controller.reflectors]

    def threads(self) -> dict[str, Callable[[threading.Event], None]]:
        """Name everything that has to run."""
        local_threads = {f"reflector {number}": one.run for number, one in enumerate(self.local_reflectors)}
        hub_threads = {f"hub reflector {number}": one.run for number, one in enumerate(self.remote_reflectors)}
        probes = (
            {"probe": self._probe_controller.run, "probe echoes": self._probe_controller.answer}
            if self._probe_controller
            else {}
        )
        return {
            **local_threads,
            **hub_threads,
            **probes,
            "exports": self._export_queue.run,
            "conditions": self._condition_queue.run,
            "import status": self._import_status_queue.run,
            "imports": self._import_queue.run,
            "copies": self._copy_queue.run,
            "report": self.report_controller.run,
            "credential": self._credential.run,
            "first contact": self._first_contact,
        }

    def unready(self) -> str | None:
        """Say why this member isn't ready; the hub being away is no reason once this cluster took part."""
        if not all(reflector.synced.is_set() for reflector in self.local_reflectors):
            return "this cluster's API has not been read yet"
        return None

    def hub_age_s(self) -> float:
        """Return the seconds since the hub answered last."""
        return time.monotonic() - max(self.clusterset.last_contact, self.report_controller.last_sent)

    def _hub_returned(self) -> None:
        for reflector in self.remote_reflectors:
            reflector.renew()

    def _first_contact(self, stop: threading.Event) -> None:
        """Give every key to its controller once the hub was heard: until then absence meant nothing."""
        for reflector in self.remote_reflectors:
            while not reflector.synced.wait(0.1):
                if stop.is_set():
                    return
        self._all_exports()
        for key in self.import_controller.service_keys():
            self._import_changed(key)

    def _source_changed(self, key: str) -> None:
        self.export_controller.stopwatch.start(key)
        self._export_queue.enqueue(key)
        self._import_changed(key)

    def _import_changed(self, key: str) -> None:
        self.import_controller.stopwatch.start(key)
        self._import_queue.enqueue(key)

    def _service_changed(self, key: str) -> None:
        self._condition_queue.enqueue(key)
        self._import_changed(key)
        if self._probe_controller is not None:
            self._probe_controller.enqueue(key)

    def _original_changed(self, key: str) -> None:
        self.mirror_controller.stopwatch.start(key)
        self._copy_queue.enqueue(key)

    def _peer_changed(self, name: str) -> None:
        if name == self._cluster:
            self.report_controller.wake()
            self._all_exports()

    def _all_exports(self) -> None:
        for key in [*list(self.sources.exports.store), *self.export_controller.service_keys()]:
            self._export_queue.enqueue(key)
