"""An API in memory that blocks and Claims live in, and leaders that act on copies of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import msgspec

from cnf.agent.caches import Caches
from cnf.controllers.blocks.controller import BlockController
from fleetboard.kube import client as kube_client
from fleetboard.kube import encoding, events
from fleetboard.kube import errors as kube_errors
from fleetboard.model import fleet, meta, resource

NAMES = ("n0", "n1", "n2")
CLUSTER = "10.113.4.0/23"  # eight node blocks


class Ended(BaseException):
    """The leader's process ends here."""


class Store:
    """The API's part that blocks live in: versions, conditional writes, fields by their owner."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Any] = {}
        self.version = 0
        self.before_call: dict[int, Callable[[], None]] = {}
        self.calls = 0
        self.clock: Callable[[], float] = time.time
        self.present = set(NAMES)

    def all(self, kind: resource.Resource[Any]) -> list[Any]:
        return [obj for (plural, _), obj in self.objects.items() if plural == kind.plural]

    def find(self, kind: resource.Resource[Any], name: str, _namespace: str = "") -> Any:
        self._count()
        return self.objects.get((kind.plural, name))

    def list(self, _kind: resource.Resource[Any]) -> tuple[list[Any], str]:
        self._count()
        return [fleet.FleetNode(metadata=meta.ObjectMeta(name=name)) for name in sorted(self.present)], ""

    def create(self, kind: resource.Resource[Any], obj: Any) -> Any:
        self._count()
        if (kind.plural, obj.metadata.name) in self.objects:
            raise kube_errors.AlreadyExistsError(409, "AlreadyExists", obj.metadata.name)
        metadata = msgspec.structs.replace(obj.metadata, uid=f"uid-{self.version}")
        return self._put(kind, msgspec.structs.replace(obj, metadata=metadata))

    def replace(self, kind: resource.Resource[Any], obj: Any) -> Any:
        self._count()
        self._check(kind, obj.metadata.name, obj.metadata.resource_version)
        return self._put(kind, obj)

    def apply(
        self,
        kind: resource.Resource[Any],
        body: Any,
        *,
        manager: str,
        keep_version: bool = False,
        subresource: str = "",
    ) -> Any:
        self._count()
        body = encoding.encode(kind, body, keep_version=keep_version, subresource=subresource)
        name = body["metadata"]["name"]
        if keep_version:
            self._check(kind, name, body["metadata"]["resourceVersion"])
        found = self.objects.get((kind.plural, name))
        if found is None:
            return self.create(kind, fleet.FleetNode(metadata=meta.ObjectMeta(name=name, creation_timestamp=name)))
        if "spec" in body:
            found = msgspec.structs.replace(found, spec=msgspec.convert(body["spec"], fleet.FleetNodeSpec))
        if "status" in body:
            found = msgspec.structs.replace(found, status=msgspec.convert(body["status"], fleet.FleetNodeStatus))
        return self._put(kind, found)

    def delete(self, kind: resource.Resource[Any], name: str, _namespace: str = "", *, uid: str = "") -> bool:
        self._count()
        found = self.objects.get((kind.plural, name))
        if found is None or (uid and found.metadata.uid != uid):
            return False
        del self.objects[(kind.plural, name)]
        return True

    def write_status(self, name: str, status: fleet.FleetNodeStatus) -> None:
        node = self.objects[(resource.FLEET_NODES.plural, name)]
        if node.status != status:
            self._put(resource.FLEET_NODES, msgspec.structs.replace(node, status=status))

    def _check(self, kind: resource.Resource[Any], name: str, version: str) -> None:
        found = self.objects.get((kind.plural, name))
        if found is None or found.metadata.resource_version != version:
            raise kube_errors.ConflictError(409, "Conflict", f"{name} has been modified")

    def _put(self, kind: resource.Resource[Any], obj: Any) -> Any:
        if self.objects.get((kind.plural, obj.metadata.name)) == obj:
            return obj  # as the API: what changes nothing is no new version
        self.version += 1
        metadata = msgspec.structs.replace(obj.metadata, resource_version=str(self.version))
        self.objects[(kind.plural, obj.metadata.name)] = obj = msgspec.structs.replace(obj, metadata=metadata)
        return obj

    def _count(self) -> None:
        self.calls += 1
        action = self.before_call.pop(self.calls, None)
        if action is not None:
            action()


class View:
    """What one leader knows: copies, each collection of its own age."""

    def __init__(self, store: Store) -> None:
        self.recorder = FakeRecorder()
        self.nodes: list[fleet.FleetNode] = []
        self.claims: list[fleet.Claim] = []
        self.catch_up(store)

    def catch_up(self, store: Store, *, nodes: bool = True, claims: bool = True) -> None:
        """Copy what happened since; each collection is of an age of its own."""
        if nodes:
            self.nodes = store.all(resource.FLEET_NODES)
        if claims:
            self.claims = store.all(resource.CLAIMS)

    def peer(self, cluster: str) -> fleet.Peer:
        return fleet.Peer(spec=fleet.PeerSpec(cluster=cluster), status=fleet.PeerStatus(cluster_cidrs=[CLUSTER]))

    def node(self, name: str) -> fleet.FleetNode | None:
        return next((node for node in self.nodes if node.metadata.name == name), None)


class FakeRecorder:
    """Records the Events that are emitted."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def emit(self, regarding: dict[str, str], *, reason: str, message: str, **_: Any) -> None:
        self.events.append((regarding["name"], reason, message))


def make_leader(store: Store) -> tuple[BlockController, View]:
    view = View(store)
    made = BlockController(
        cast("kube_client.Client", store),
        namespace="fleetboard-system",
        cluster="c1",
        caches=cast("Caches", view),
        leading=lambda: True,
        recorder=cast("events.Recorder", view.recorder),
        clock=store.clock,
    )
    return made, view
