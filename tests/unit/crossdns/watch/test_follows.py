"""Names follow what the API says, over real HTTP, and stand still while it is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from dns_objects import (
    Resolver,
    contents,
    make_endpoint,
    make_node,
    make_peer,
    make_service,
    make_slice,
    put,
    put_service,
    put_slice,
    rcode,
)
from fake_api import FakeApi

from crossdns.server import feed
from crossdns.watch import saved, watch
from fleetboard.model import fleet, meta, names, namespaces
from fleetboard.model.keys import ServiceKey

WEB = "web.shop.svc.hyperos.local"
SYSTEM = names.NAMESPACE


class Answering(Resolver):
    """In the place of the worker processes: applies frames where the test can ask."""

    def publish_frames(self, make: Callable[[int], Iterable[feed.Frame]]) -> None:
        self.generation += 1
        for frame in make(self.generation):
            self.replica.apply(frame)


class Workers:
    """What ``watch.Watch`` needs of ``workers.Workers``."""

    def __init__(self, answering: Answering) -> None:
        self.publish = answering.publish_frames


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as made:
        made.put("namespaces", "shop", "")
        yield made


@pytest.fixture
def crossdns(api: FakeApi) -> Iterator[Answering]:
    yield from start(api)


def start(api: FakeApi, store: saved.Store | None = None) -> Iterator[Answering]:
    answering, stop = Answering(), threading.Event()
    client = api.client()
    watching = watch.Watch(
        client, namespace=SYSTEM, answering=Workers(answering), imports=namespaces.Namespaces(), store=store
    )
    threads = [threading.Thread(target=run, args=(stop,)) for run in watching.threads.values()]
    for thread in threads:
        thread.start()
    yield answering
    stop.set()
    for thread in threads:
        thread.join(10)
    client.close()


def in_system(name: str) -> meta.ObjectMeta:
    return meta.ObjectMeta(name=name, namespace=SYSTEM)


def eventually(crossdns: Answering, expected: list[str] | str, name: str = WEB) -> None:
    """Wait until ``name`` has these addresses, or this rcode."""
    deadline = time.monotonic() + 30
    while True:
        answer = crossdns.ask(name)
        if (rcode(answer) if isinstance(expected, str) else contents(answer)) == expected:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{name}: {answer}, expected {expected}")
        time.sleep(0.002)


def test_a_service_appears_changes_and_vanishes(api: FakeApi, crossdns: Answering) -> None:
    eventually(crossdns, "NXDOMAIN")
    put_service(api, make_service())
    eventually(crossdns, ["10.112.0.9"])
    put_service(api, make_service(vips=["10.112.0.10"]))
    eventually(crossdns, ["10.112.0.10"])
    api.remove("fleetservices", "shop.web", SYSTEM)
    eventually(crossdns, "NXDOMAIN")


def test_endpoints_follow_scaling(api: FakeApi, crossdns: Answering) -> None:
    put_service(api, make_service(type_="Headless"))
    put_slice(api, make_slice("c1", [make_endpoint("10.112.4.2")]))
    put_slice(api, make_slice("c2", [make_endpoint("10.112.8.2")]))
    eventually(crossdns, ["10.112.4.2", "10.112.8.2"])
    put_slice(api, make_slice("c1", []))
    eventually(crossdns, ["10.112.8.2"])
    api.remove("endpointslices", "web-c2", "shop")
    eventually(crossdns, "NXDOMAIN")


def test_slices_of_others_are_not_read(api: FakeApi, crossdns: Answering) -> None:
    put_service(api, make_service(type_="Headless"))
    foreign = make_slice("c1", [make_endpoint("10.112.4.9")], name="foreign")
    foreign.metadata.labels[names.LABEL_MANAGED_BY] = "endpointslice-controller.k8s.io"
    put_slice(api, foreign)
    exchanged = make_slice("c1", [make_endpoint("10.112.4.8")], name="exchanged")
    exchanged.metadata.labels[names.LABEL_SERVICE_NAMESPACE] = "shop"
    put_slice(api, exchanged)
    put_slice(api, make_slice("c1", [make_endpoint("10.112.4.2")]))
    eventually(crossdns, ["10.112.4.2"])


def test_an_unreachable_clusters_endpoints_leave_and_come_back(api: FakeApi, crossdns: Answering) -> None:
    put_service(api, make_service(type_="Headless"))
    put_slice(api, make_slice("c1", [make_endpoint("10.112.4.2")]))
    put_slice(api, make_slice("c2", [make_endpoint("10.112.8.2")]))
    put(api, "peers", make_peer("c2"))
    eventually(crossdns, ["10.112.4.2", "10.112.8.2"])
    put(api, "peers", make_peer("c2", reachable=False))
    eventually(crossdns, ["10.112.4.2"])
    put(api, "peers", make_peer("c2"))
    eventually(crossdns, ["10.112.4.2", "10.112.8.2"])


def test_without_the_hub_local_endpoints_come_alone_and_names_stay(api: FakeApi, crossdns: Answering) -> None:
    put(api, "peerreports", fleet.PeerReport(metadata=in_system("c1"), spec=fleet.PeerReportSpec(cluster="c1")))
    put(api, "fleetnodes", make_node("left", epoch=3))
    put(api, "fleetnodes", make_node("other"))
    put_service(api, make_service(type_="Headless"))
    put_slice(api, make_slice("c1", [make_endpoint("10.112.4.2")]))
    put_slice(api, make_slice("c2", [make_endpoint("10.112.8.2")]))
    remote = ServiceKey("shop", "remote")
    put_service(api, make_service(remote, type_="Headless"))
    put_slice(api, make_slice("c2", [make_endpoint("10.112.8.3")], key=remote))
    eventually(crossdns, ["10.112.4.2", "10.112.8.2"])
    eventually(crossdns, ["10.112.8.3"], "remote.shop.svc.hyperos.local")
    put(api, "fleetnodes", make_node("other", epoch=4, hub_reachable=False))
    eventually(crossdns, ["10.112.4.2"])
    assert contents(crossdns.ask("remote.shop.svc.hyperos.local")) == ["10.112.8.3"]
    put(api, "fleetnodes", make_node("other", epoch=4))
    eventually(crossdns, ["10.112.4.2", "10.112.8.2"])


def test_names_live_where_their_namespace_does(api: FakeApi, crossdns: Answering) -> None:
    put_service(api, make_service())
    eventually(crossdns, ["10.112.0.9"])
    api.remove("namespaces", "shop", "")
    eventually(crossdns, "NXDOMAIN")
    api.put("namespaces", "shop", "")
    eventually(crossdns, ["10.112.0.9"])


def test_a_refused_namespace_has_no_names(api: FakeApi, crossdns: Answering) -> None:
    api.put("namespaces", "kube-system", "")
    put_service(api, make_service(ServiceKey("kube-system", "web")))
    put_service(api, make_service())
    eventually(crossdns, ["10.112.0.9"])
    assert rcode(crossdns.ask("web.kube-system.svc.hyperos.local")) == "NXDOMAIN"


def test_the_last_known_zone_is_served_while_the_api_is_away(api: FakeApi, crossdns: Answering) -> None:
    put_service(api, make_service())
    eventually(crossdns, ["10.112.0.9"])
    api.tokens = set()
    api.cut()
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        assert contents(crossdns.ask(WEB)) == ["10.112.0.9"]
        time.sleep(0.05)
    api.tokens = None
    put_service(api, make_service(vips=["10.112.0.10"]))
    eventually(crossdns, ["10.112.0.10"])


def test_servfail_until_every_collection_was_listed(api: FakeApi) -> None:
    put_service(api, make_service())
    api.fail(500, times=1000, watch=False)
    running = start(api)
    crossdns = next(running)
    try:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            assert rcode(crossdns.ask(WEB)) == "SERVFAIL"
            time.sleep(0.05)
        api.faults.clear()
        eventually(crossdns, ["10.112.0.9"])
    finally:
        next(running, None)


def test_the_saved_zone_is_served_when_the_api_is_away_at_the_start(api: FakeApi, tmp_path: Path) -> None:
    put_service(api, make_service())
    before = start(api, saved.Store(tmp_path))
    eventually(next(before), ["10.112.0.9"])
    next(before, None)
    api.fail(500, times=1000, watch=False)
    api.remove("fleetservices", "shop.web", SYSTEM)
    after = start(api, saved.Store(tmp_path))
    crossdns = next(after)
    try:
        eventually(crossdns, ["10.112.0.9"])
        api.faults.clear()
        eventually(crossdns, "NXDOMAIN")
    finally:
        next(after, None)
