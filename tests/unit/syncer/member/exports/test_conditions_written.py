"""What a ServiceExport says of itself, and when: after what carries its traffic."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import fake_api
import pytest
from polling import wait_until
from recorded_bus import RecordedBus

from fleetboard.kube import errors
from fleetboard.kube.reflector import Mirrors
from fleetboard.model import names
from fleetboard.model.keys import ServiceKey
from syncer.member import clusterset
from syncer.member.exports import controller, sources
from syncer.member.wakes import MemberSource

HUB, MEMBER = names.clusterset_namespace("default"), names.member_namespace("default", "c1")
KEY = ServiceKey("shop", "web")


@dataclasses.dataclass
class World:
    """One export of an admitted cluster, and a clock that stands still."""

    local: fake_api.FakeApi
    hub: fake_api.FakeApi
    export_controller: controller.ExportController
    bus: RecordedBus
    now: list[float]

    def conditions(self) -> dict[str, str]:
        """Return the conditions by type."""
        status = self.local.objects["serviceexports", "shop", "web"].get("status", {})
        return {one["type"]: f"{one['status']} {one['reason']}" for one in status.get("conditions", [])}

    def writes(self, api: fake_api.FakeApi) -> list[str]:
        written = [request for request in api.requests if request.method in ("POST", "PUT", "PATCH")]
        return [request.path.rpartition("/apis/")[2] for request in written]

    def merge(self) -> None:
        """Merge the export, as the hub does."""
        spec: dict[str, Any] = {"namespace": "shop", "name": "web", "constituents": [{"cluster": "c1"}]}
        self.hub.put("fleetservices", "shop.web", HUB, spec=spec)


@pytest.fixture
def world() -> Iterator[World]:
    with fake_api.FakeApi() as local, fake_api.FakeApi() as hub:
        local.put("serviceexports", "web", "shop")
        local.put("services", "web", "shop", spec={"clusterIP": "None", "ports": [{"port": 80}]})
        condition = {"type": "Admitted", "status": "True", "reason": "Admitted", "message": "welcome"}
        hub.put("peers", "c1", HUB, spec={"cluster": "c1"}, status={"conditions": [condition]})
        bus = RecordedBus()
        source = sources.Sources(local.client(), bus=bus, namespace=names.NAMESPACE, cluster="c1")
        view = clusterset.Clusterset(
            hub.client(),
            local.client(),
            bus=bus,
            clusterset="default",
            cluster="c1",
            namespace=names.NAMESPACE,
        )
        now = [1000.0]
        made = controller.ExportController(
            local.client(),
            hub.client(),
            bus=bus,
            sources=source,
            clusterset=view,
            cluster="c1",
            member_namespace=MEMBER,
            clock=lambda: now[0],
        )
        built = World(local, hub, made, bus, now)
        stop = threading.Event()
        reflectors: list[Mirrors] = [*source.reflectors, view.peers, view.services, *made.reflectors]
        threads = [threading.Thread(target=one.run, args=(stop,), daemon=True) for one in reflectors]
        for thread in threads:
            thread.start()
        wait_until(lambda: all(one.synced.is_set() for one in reflectors))
        yield built
        stop.set()
        for thread in threads:
            thread.join(10)


def test_the_hub_is_written_before_any_condition(world: World) -> None:
    world.export_controller.reconcile(KEY)
    assert world.bus.services(MemberSource.DELIVERY) == [KEY]
    assert ("exportedservices", MEMBER, "shop.web") in world.hub.objects
    assert world.writes(world.local) == []


def test_an_export_that_is_merged_soon_is_written_once(world: World) -> None:
    world.export_controller.reconcile(KEY)
    assert world.export_controller.write_status(KEY) == pytest.approx(controller.MERGE_S)
    assert world.conditions() == {}
    world.merge()
    wait_until(lambda: world.export_controller.write_status(KEY) is None)
    assert world.conditions() == {"Valid": "True Valid", "Ready": "True Exported", "Conflict": "False NoConflicts"}
    assert world.export_controller.write_status(KEY) is None
    assert len(world.writes(world.local)) == 1, "what was written is known before the watch reports it"


def test_an_export_that_the_hub_does_not_merge_says_so(world: World) -> None:
    world.export_controller.reconcile(KEY)
    world.now[0] += controller.MERGE_S
    world.export_controller.reconcile(KEY)  # the same again: it waits no longer for it
    assert world.export_controller.write_status(KEY) is None
    assert world.conditions() == {"Valid": "True Valid", "Ready": "False Pending"}


def test_an_export_without_its_service_says_so_at_once(world: World) -> None:
    world.local.remove("services", "web", "shop")
    wait_until(
        lambda: (
            world.export_controller.reconcile(KEY) is None
            and world.export_controller.write_status(KEY) is None
            and world.conditions()
        )
    )
    assert world.conditions() == {"Valid": "False NoService", "Ready": "False Pending"}


def test_a_service_that_comes_back_waits_again_for_the_merge(world: World) -> None:
    before = world.local.objects["services", "shop", "web"]
    world.local.remove("services", "web", "shop")
    wait_until(
        lambda: (
            world.export_controller.reconcile(KEY) is None
            and world.export_controller.write_status(KEY) is None
            and world.conditions()
        )
    )
    world.now[0] += 60
    world.local.put("services", "web", "shop", spec=before["spec"])
    wait_until(
        lambda: (
            world.export_controller.reconcile(KEY) is None
            and ("exportedservices", MEMBER, "shop.web") in world.hub.objects
        )
    )
    assert world.export_controller.write_status(KEY) == pytest.approx(controller.MERGE_S)


def test_what_the_hub_holds_is_not_written_again(world: World) -> None:
    world.export_controller.reconcile(KEY)
    world.export_controller.reconcile(KEY)
    world.export_controller.reconcile(KEY)
    assert len(world.writes(world.hub)) == 2, "one ExportedService, one slice"


def test_what_another_says_in_the_status_stays(world: World) -> None:
    world.export_controller.reconcile(KEY)
    world.merge()
    foreign = {"type": "Approved", "status": "True", "reason": "ByHand", "message": "m", "lastTransitionTime": "t"}
    with world.local.changed:
        found = world.local.objects["serviceexports", "shop", "web"]
        world.local.store(("serviceexports", "shop", "web"), {**found, "status": {"conditions": [foreign]}})

    def is_written() -> bool:
        # While the watch has not shown their condition yet, the write is refused and the controller tries again.
        with contextlib.suppress(errors.ConflictError):
            return world.export_controller.write_status(KEY) is None
        return False

    wait_until(is_written)
    assert world.conditions() == {
        "Approved": "True ByHand",
        "Valid": "True Valid",
        "Ready": "True Exported",
        "Conflict": "False NoConflicts",
    }
