"""Events as users see them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import fake_api
import pytest
from fake_clock import FakeClock
from polling import wait_until

from fleetboard.kube import events
from fleetboard.model import meta, resource

REGARDING = {"apiVersion": "v1", "kind": "Service", "name": "web", "namespace": "shop", "uid": "u1"}


@pytest.mark.parametrize(
    ("kind", "namespace", "expected"),
    [
        (resource.SERVICES, "shop", {"apiVersion": "v1", "kind": "Service"}),
        (resource.PEERS, "shop", {"apiVersion": "fleetboard.io/v1alpha1", "kind": "Peer"}),
        (resource.DEPLOYMENTS, "shop", {"apiVersion": "apps/v1", "kind": "Deployment"}),
        (resource.NODES, "", {"apiVersion": "v1", "kind": "Node"}),
    ],
)
def test_a_reference_names_an_object(kind: resource.AnyResource, namespace: str, expected: dict[str, str]) -> None:
    metadata = meta.ObjectMeta(name="web", namespace=namespace, uid="u1")
    assert events.reference(kind, metadata) == {**expected, "name": "web", "namespace": namespace, "uid": "u1"}


@pytest.fixture
def api() -> Iterator[fake_api.FakeApi]:
    with fake_api.FakeApi() as running:
        yield running


def test_an_event_says_what_happened_to_what(api: fake_api.FakeApi) -> None:
    events.Recorder(api.client(), "syncer").emit(REGARDING, reason="Exported", message="It is.", type_="Warning")
    wait_until(lambda: api.requests)
    request = api.requests[0]
    assert request.path == "/apis/events.k8s.io/v1/namespaces/shop/events"
    body = request.body
    assert (body["reason"], body["note"], body["type"], body["action"]) == ("Exported", "It is.", "Warning", "Exported")
    assert body["regarding"] == REGARDING
    assert body["reportingController"] == "fleetboard.io/syncer"
    assert len(body["eventTime"]) == len("2026-01-01T00:00:00.000000Z")


def test_repetitions_become_one_series(api: fake_api.FakeApi) -> None:
    clock = FakeClock()
    recorder = events.Recorder(api.client(), "syncer", clock=clock)
    for _ in range(5):
        recorder.emit(REGARDING, reason="Exported", message="It is.")
    recorder.emit(REGARDING, reason="Exported", message="Something else.")
    wait_until(lambda: len(api.requests) == 2)
    clock.now += events.SERIES_S
    recorder.emit(REGARDING, reason="Exported", message="It is.")
    wait_until(lambda: len(api.requests) == 3)
    assert [request.method for request in api.requests] == ["POST", "POST", "PATCH"]
    assert api.requests[2].body["series"]["count"] == 6


def test_after_a_pause_an_event_is_a_new_one(api: fake_api.FakeApi) -> None:
    clock = FakeClock()
    recorder = events.Recorder(api.client(), "syncer", clock=clock)
    recorder.emit(REGARDING, reason="Exported", message="It is.")
    wait_until(lambda: len(api.requests) == 1)
    clock.now += events.SAME_S
    recorder.emit(REGARDING, reason="Exported", message="It is.")
    wait_until(lambda: len(api.requests) == 2)
    assert {request.method for request in api.requests} == {"POST"}


def test_a_flood_is_cut_off(api: fake_api.FakeApi) -> None:
    recorder = events.Recorder(api.client(), "syncer", clock=FakeClock())
    for number in range(events.BURST + 20):
        recorder.emit(REGARDING, reason="Exported", message=f"{number}")
    wait_until(lambda: len(api.requests) == events.BURST)
    time.sleep(0.1)
    assert len(api.requests) == events.BURST


def test_a_server_that_hangs_or_refuses_keeps_nobody_waiting(api: fake_api.FakeApi) -> None:
    recorder = events.Recorder(api.client(), "syncer")
    api.stalled.set()
    for number in range(2 * events.QUEUE_SIZE):
        recorder.emit(REGARDING, reason="Exported", message=f"{number}")
    assert len(api.requests) <= 1, "the first one has no answer yet"
    api.fail(403, method="POST")
    api.stalled.clear()
    wait_until(lambda: len(api.requests) >= 3)


def test_events_of_cluster_scoped_objects_live_in_default(api: fake_api.FakeApi) -> None:
    events.Recorder(api.client(), "cnf").emit(
        {"apiVersion": "v1", "kind": "Node", "name": "n1"}, reason="Ready", message="yes"
    )
    wait_until(lambda: api.requests)
    assert "/namespaces/default/" in api.requests[0].path
