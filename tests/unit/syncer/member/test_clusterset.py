"""What a member knows of other clusters' endpoints while its namespaces come and go."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import fake_api
import pytest
from polling import wait_until
from recorded_bus import RecordedBus

from fleetboard.model import keys, names
from fleetboard.model.keys import ServiceKey
from syncer.member import clusterset
from syncer.member.wakes import MemberSource

LATE = ServiceKey("late", "web")
HUB = names.clusterset_namespace("default")


class ViewThreads:
    """A member's view of the hub, and the changes that it reported."""

    def __init__(self, hub: fake_api.FakeApi, local: fake_api.FakeApi) -> None:
        self.bus = RecordedBus()
        self.view = clusterset.Clusterset(
            hub.client(),
            local.client(),
            bus=self.bus,
            clusterset="default",
            cluster="c1",
            namespace=names.NAMESPACE,
        )
        self.stop = threading.Event()
        reflectors = [*self.view.hub_reflectors, *self.view.local_reflectors]
        self.threads = [threading.Thread(target=one.run, args=(self.stop,), daemon=True) for one in reflectors]
        for thread in self.threads:
            thread.start()

    def found(self, text: str) -> list[str] | None:
        remote = self.view.remote(keys.parse_slash(text))
        return None if remote is None else [one.metadata.name for one in remote]


@pytest.fixture
def hub() -> Iterator[fake_api.FakeApi]:
    with fake_api.FakeApi() as api:
        yield api


@pytest.fixture
def running(hub: fake_api.FakeApi) -> Iterator[ViewThreads]:
    with fake_api.FakeApi() as local:
        begun = ViewThreads(hub, local)
        wait_until(lambda: begun.view.is_synced)
        yield begun
        begun.stop.set()
        for thread in begun.threads:
            thread.join(10)


def put_slice(hub: fake_api.FakeApi, namespace: str, *, source: str = "c2") -> None:
    labels = {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_SOURCE_CLUSTER: source,
        names.LABEL_SERVICE_NAMESPACE: namespace,
        names.LABEL_SERVICE_NAME: "web",
    }
    name = f"{source}.{namespace}.web"
    with hub.changed:
        metadata = {"name": name, "namespace": HUB, "labels": labels}
        hub.store(("endpointslices", HUB, name), {"metadata": metadata, "addressType": "IPv4"})


def test_endpoints_are_unknown_until_their_namespace_is_watched(hub: fake_api.FakeApi, running: ViewThreads) -> None:
    put_slice(hub, "shop")
    assert running.found("shop/web") is None
    running.view.follow(frozenset({"shop"}))
    wait_until(lambda: running.found("shop/web") == ["c2.shop.web"])
    assert running.found("late/web") is None, "unknown is not the same as none"


def test_services_of_a_namespace_made_later_are_decided_again(hub: fake_api.FakeApi, running: ViewThreads) -> None:
    hub.put("fleetservices", "late.web", HUB, spec={"namespace": "late", "name": "web"})
    running.view.follow(frozenset({"shop"}))
    wait_until(lambda: running.view.service(LATE) is not None)
    wait_until(lambda: running.found("shop/web") == [])
    running.bus.woken.clear()
    running.view.follow(frozenset({"shop", "late"}))
    wait_until(lambda: LATE in running.bus.services(MemberSource.HUB_SERVICE))
    assert running.found("late/web") == []


def test_own_slices_and_other_namespaces_are_not_asked_for(hub: fake_api.FakeApi, running: ViewThreads) -> None:
    put_slice(hub, "shop", source="c1")
    put_slice(hub, "shop", source="c2")
    put_slice(hub, "other", source="c2")
    running.view.follow(frozenset({"shop"}))
    wait_until(lambda: running.found("shop/web") == ["c2.shop.web"])
    assert list(running.view.slices.store) == [f"{HUB}/c2.shop.web"]
