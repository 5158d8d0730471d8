"""Keeps copies of the hub's Peers and FleetServices in this cluster, where cnf and crossdns read them.

Invariant: a copy is deleted only after a list from the hub succeeded and did not have the original. A hub that is
unreachable, or refuses this cluster, changes nothing here.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import msgspec

from fleetboard.kube import errors
from fleetboard.kube.client import Client
from fleetboard.model import fleet, meta, names, resource
from syncer.member.clusterset import PEERS, Clusterset, MirrorKey
from syncer.member.settings import FIELD_MANAGER
from syncer.member.stopwatch import Stopwatch

Mirrored = fleet.Peer | fleet.FleetService


class MirrorStep(enum.Enum):
    """One write that makes a copy equal to its original."""

    WRITE = "write"
    WRITE_STATUS = "write status"
    DELETE = "delete"


@dataclasses.dataclass(frozen=True, slots=True)
class MirrorPlan:
    """Which steps bring one copy to its original, and the object they write."""

    steps: tuple[MirrorStep, ...] = ()
    copy: dict[str, Any] = dataclasses.field(default_factory=dict)


def plan(original: Mirrored | None, copy: Mirrored | None, *, namespace: str = names.NAMESPACE) -> MirrorPlan:
    """Decide what makes ``copy`` equal to ``original``."""
    if original is None:
        return MirrorPlan((MirrorStep.DELETE,)) if copy is not None else MirrorPlan()
    metadata = meta.ObjectMeta(name=original.metadata.name, namespace=namespace, labels=dict(original.metadata.labels))
    wanted = msgspec.to_builtins(msgspec.structs.replace(original, metadata=metadata))
    steps = []
    if copy is None or copy.spec != original.spec or not _labelled(copy, original):
        steps.append(MirrorStep.WRITE)
    if isinstance(original, fleet.Peer):
        # A new object's status is empty until it is written through its own subresource.
        status = copy.status if isinstance(copy, fleet.Peer) else fleet.PeerStatus()
        if status != original.status:
            steps.append(MirrorStep.WRITE_STATUS)
    return MirrorPlan(tuple(steps), wanted)


def _labelled(copy: Mirrored, original: Mirrored) -> bool:
    return all(copy.metadata.labels.get(key) == value for key, value in original.metadata.labels.items())


class MirrorController:
    """Reconciles one mirrored object at a time: keys are ``MirrorKey``.

    Its queue waits until the hub has been listed: before that, an absent original means nothing.
    """

    def __init__(self, local: Client, *, clusterset: Clusterset, namespace: str) -> None:
        self._local, self._clusterset, self._namespace = local, clusterset, namespace
        self.stopwatch = Stopwatch("copy")

    def reconcile(self, key: MirrorKey) -> float | None:
        """Make a copy equal to its original."""
        target: resource.AnyResource = resource.PEERS if key.collection == PEERS else resource.FLEET_SERVICES
        copy = self._clusterset.mirrored(key)
        planned = plan(self._clusterset.original(key), copy, namespace=self._namespace)
        for step in planned.steps:
            match step:
                case MirrorStep.WRITE:
                    body = {part: content for part, content in planned.copy.items() if part != "status"}
                    self._write(target, body, copy)
                case MirrorStep.WRITE_STATUS:
                    self._write_status(target, planned.copy)
                case MirrorStep.DELETE:
                    self._local.delete(target, key.name, self._namespace)
        self.stopwatch.stop(key, wrote=bool(planned.steps))
        return None

    def _write(self, target: resource.AnyResource, body: dict[str, Any], copy: Mirrored | None) -> None:
        if target is resource.FLEET_SERVICES:
            self._clusterset.mirrored_services.remember(self._local.put(target, body, current=copy))
        else:
            # Its status is written separately, after which the known version is no longer the last.
            self._local.apply(target, body, manager=FIELD_MANAGER)

    def _write_status(self, target: resource.AnyResource, copy: dict[str, Any]) -> None:
        body = {"metadata": copy["metadata"], "status": copy.get("status", {})}
        try:
            self._local.apply(target, body, manager=FIELD_MANAGER, subresource="status")
        except errors.NotFoundError:
            # Somebody deleted the copy: write all of it, the status last.
            self._local.apply(target, {part: copy[part] for part in ("metadata", "spec")}, manager=FIELD_MANAGER)
            self._local.apply(target, body, manager=FIELD_MANAGER, subresource="status")
