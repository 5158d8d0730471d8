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
    """The parts of a joined child.

    Args:
        settings: The process' settings.
        child: Client of this cluster's API.
        credential: How to reach the hub; a token is stored.
        cluster_uid: What tells this cluster from others of its name.

    Raises:
        errors.KubeError: this cluster's API doesn't say which fields a ServiceImport has here.
    """

    def __init__(self, settings: MemberSettings, *, child: Client, credential: Credential, cluster_uid: str) -> None:
        joined, hub = credential.join, credential.connect()
        cluster, namespace = joined.cluster, settings.namespace
        imports_kind = schema.newest(child, resource.SERVICE_IMPORTS, known=mcs.VERSIONS)
        exports_kind = schema.newest(child, resource.SERVICE_EXPORTS, known=mcs.VERSIONS)
        described = schema.read(child, imports_kind)

        def has(*path: str) -> bool:
            return schema.find_field(described, imports_kind.kind, path)

        self._cluster, self._credential = cluster, credential
        self.sources = sources.Sources(
            child, namespace=namespace, cluster=cluster, notify=self._source_changed, kind=exports_kind
        )
        self.clusterset = clusterset_.Clusterset(
            hub,
            child,
            clusterset=joined.clusterset,
            cluster=cluster,
            namespace=namespace,
            service_changed=self._service_changed,
            original_changed=self._original_changed,
            peer_changed=self._peer_changed,
        )
        self.exports = ExportController(
            child,
            hub,
            sources=self.sources,
            clusterset=self.clusterset,
            cluster=cluster,
            member_namespace=joined.member.namespace,
            changed=lambda key: self._export_controller.enqueue(key),
            delivered=lambda key: self._condition_controller.enqueue(key),
        )
        self.imports = ImportController(
            child,
            sources=self.sources,
            clusterset=self.clusterset,
            cluster=cluster,
            accepted=settings.imports,
            changed=self._import_changed,
            carried_out=lambda key: self._status_controller.enqueue(key),
            slice_objects=has("status", "endpointSliceObjects"),
            kind=imports_kind,
            fields=frozenset(name for name in plan.OPTIONAL_FIELDS if has("spec", name)),
        )
        self.mirror = mirror.MirrorController(child, clusterset=self.clusterset, namespace=namespace)
        self.reporter = ReportController(
            child,
            hub,
            settings=joined,
            clusterset=self.clusterset,
            namespace=namespace,
            cluster_uid=cluster_uid,
            networks=lambda: networks.discover(child, settings.networks),
            version=importlib.metadata.version("fleetboard"),
            problem=lambda: credential.problem,
            returned=self._hub_returned,
        )
        self._probing: ProbeController | None = None
        if settings.probe_interval_s:
            self._probing = ProbeController(
                child,
                clusterset=self.clusterset,
                cluster=cluster,
                namespace=namespace,
                interval_s=settings.probe_interval_s,
            )
        self._controllers()

    def _controllers(self) -> None:
        own = [one.synced for one in self.sources.reflectors]
        copies = [one.synced for one in self.clusterset.local_reflectors]
        there = [one.synced for one in self.imports.reflectors]
        heard = [self.clusterset.peers.synced, self.clusterset.services.synced]
        self._export_controller = Controller(
            "exports", self.exports.reconcile, workers=HUB_WORKERS, wait_for=[*own, *copies]
        )
        # One worker each, which rests: what is said of a service waits for whatever carries traffic. A quick API
        # takes 40 a second of these; in one that is slow, because it has too much to do, they are the ones that wait.
        self._condition_controller = Controller("conditions", self.exports.tell, wait_for=[*own, *copies], rest=2)
        self._status_controller = Controller("import status", self.imports.tell, wait_for=there, rest=2)
        self._import_controller = Controller(
            "imports", self.imports.reconcile, workers=WORKERS, wait_for=[*own, *copies, *there]
        )
        self._mirror_controller = Controller(
            "copies", self.mirror.reconcile, workers=WORKERS, wait_for=[*copies, *heard]
        )

    @property
    def local_reflectors(self) -> list[Reflector[object]]:
        """Those of this cluster's API."""
        return [
            *self.sources.reflectors,
            *self.clusterset.local_reflectors,
            *self.imports.reflectors,
            *self.reporter.reflectors,
        ]

    @property
    def remote_reflectors(self) -> list[Reflector[object]]:
        """Those of the hub's API."""
        return [*self.clusterset.remote_reflectors, *self.exports.reflectors]

    def threads(self) -> dict[str, Callable[[threading.Event], None]]:
        """Name everything that has to run."""
        local = {f"reflector {number}": one.run for number, one in enumerate(self.local_reflectors)}
        remote = {f"hub reflector {number}": one.run for number, one in enumerate(self.remote_reflectors)}
        probes = {"probe": self._probing.run, "probe echoes": self._probing.answer} if self._probing else {}
        return {
            **local,
            **remote,
            **probes,
            "exports": self._export_controller.run,
            "conditions": self._condition_controller.run,
            "import status": self._status_controller.run,
            "imports": self._import_controller.run,
            "copies": self._mirror_controller.run,
            "report": self.reporter.run,
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
        return time.monotonic() - max(self.clusterset.last_contact, self.reporter.last_sent)

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
        for key in self.imports.known():
            self._import_changed(key)

    def _source_changed(self, key: str) -> None:
        self.exports.stopwatch.start(key)
        self._export_controller.enqueue(key)
        self._import_changed(key)

    def _import_changed(self, key: str) -> None:
        self.imports.stopwatch.start(key)
        self._import_controller.enqueue(key)

    def _service_changed(self, key: str) -> None:
        self._condition_controller.enqueue(key)
        self._import_changed(key)
        if self._probing is not None:
            self._probing.notice(key)

    def _original_changed(self, key: str) -> None:
        self.mirror.stopwatch.start(key)
        self._mirror_controller.enqueue(key)

    def _peer_changed(self, name: str) -> None:
        if name == self._cluster:
            self.reporter.wake()
            self._all_exports()

    def _all_exports(self) -> None:
        for key in [*list(self.sources.exports.store), *self.exports.keys()]:
            self._export_controller.enqueue(key)
