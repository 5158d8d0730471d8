"""The mirror of a collection, while the server misbehaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import fake_api
import pytest
from polling import wait_until

from fleetboard.kube import backoff, encoding, reflector
from fleetboard.model import fleet, resource

SPEC: dict[str, Any] = {"cidr": "10.112.0.0/22", "purpose": "vip", "owner": "c1"}


class ReflectorThread:
    """A reflector in its thread, and the keys it notified of."""

    def __init__(self, api: fake_api.FakeApi, **options: Any) -> None:
        self.notified: list[str] = []
        options.setdefault("retry", backoff.Backoff(base_s=0.02, cap_s=0.1))
        self.reflector = reflector.Reflector(api.client(), resource.CLAIMS, notify=self.notified.append, **options)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.reflector.run, args=(self.stop,), daemon=True)
        self.thread.start()

    def names(self) -> set[str]:
        return {claim.metadata.name for claim in list(self.reflector.store.values())}

    def owner(self, name: str) -> str:
        claim = self.reflector.get(f"default/{name}")
        return claim.spec.owner if claim else ""


def ends(running: ReflectorThread) -> bool:
    """Stop it and return whether it ends within a minute."""
    running.stop.set()
    running.thread.join(60)
    return not running.thread.is_alive()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_api.FakeApi]:
    monkeypatch.setattr(reflector, "RELIST_SPREAD_S", 0.05)
    with fake_api.FakeApi() as running:
        yield running


@pytest.fixture
def start(api: fake_api.FakeApi) -> Iterator[Callable[..., ReflectorThread]]:
    started: list[ReflectorThread] = []

    def begin(**options: Any) -> ReflectorThread:
        running = ReflectorThread(api, **options)
        started.append(running)
        assert running.reflector.synced.wait(30)
        return running

    yield begin
    for running in started:
        assert ends(running)


Start = Callable[..., ReflectorThread]


def test_it_lists_then_follows(api: fake_api.FakeApi, start: Start) -> None:
    api.put("claims", "a", spec=SPEC)
    running = start()
    assert running.names() == {"a"}
    api.put("claims", "b", spec=SPEC)
    wait_until(lambda: running.names() == {"a", "b"})
    api.put("claims", "a", spec=SPEC | {"owner": "c2"})
    wait_until(lambda: running.owner("a") == "c2")
    api.remove("claims", "b")
    wait_until(lambda: running.names() == {"a"})
    wait_until(lambda: running.notified == ["default/a", "default/b", "default/a", "default/b"])


def test_watches_ask_for_bookmarks_and_a_bounded_time(api: fake_api.FakeApi, start: Start) -> None:
    start(namespace="default", selector="a=b", field_selector="metadata.name=x")
    wait_until(api.watches)
    query = api.watches()[0].query
    assert query["allowWatchBookmarks"] == "true"
    assert 240 <= int(query["timeoutSeconds"]) <= 360
    assert (query["labelSelector"], query["fieldSelector"]) == ("a=b", "metadata.name=x")
    assert api.watches()[0].path == "/apis/fleetboard.io/v1alpha1/namespaces/default/claims"


def test_a_cut_watch_goes_on_where_it_was(api: fake_api.FakeApi, start: Start) -> None:
    api.put("claims", "a", spec=SPEC)
    running = start()
    wait_until(api.watches)
    api.put("claims", "b", spec=SPEC)
    wait_until(lambda: "b" in running.names())
    api.cut()
    api.put("claims", "c", spec=SPEC)
    wait_until(lambda: running.notified == ["default/a", "default/b", "default/c"])
    assert running.names() == {"a", "b", "c"}
    assert len(api.lists()) == 1


def test_a_bookmark_moves_the_version_and_notifies_nobody(api: fake_api.FakeApi, start: Start) -> None:
    running = start()
    wait_until(api.watches)
    api.bookmark()
    wait_until(lambda: running.reflector.seen == api.version)
    api.cut()
    wait_until(lambda: len(api.watches()) > 1)
    assert api.watches()[-1].query["resourceVersion"] == str(api.version)
    assert running.notified == []


def test_a_relist_notifies_of_changed_keys_alone(api: fake_api.FakeApi, start: Start) -> None:
    for name in ("same", "changed", "deleted"):
        api.put("claims", name, spec=SPEC)
    running = start()
    wait_until(api.watches)
    running.notified.clear()
    api.fail(503, times=3, watch=True)
    with api.changed:
        api.cut()
        api.put("claims", "changed", spec=SPEC | {"owner": "c2"})
        api.remove("claims", "deleted")
        api.put("claims", "new", spec=SPEC)
        api.compact()
    wait_until(lambda: running.names() == {"same", "changed", "new"})
    wait_until(lambda: len(running.notified) == 3)
    assert sorted(running.notified) == ["default/changed", "default/deleted", "default/new"]
    assert len(api.lists()) == 2


def test_a_410_instead_of_a_watch_makes_it_list_again(api: fake_api.FakeApi, start: Start) -> None:
    api.fail(410, reason="Expired", watch=True)
    running = start()
    wait_until(lambda: len(api.lists()) == 2)
    api.put("claims", "a", spec=SPEC)
    wait_until(lambda: running.names() == {"a"})


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_a_refused_watch_is_tried_again(api: fake_api.FakeApi, start: Start, status: int) -> None:
    api.fail(status, times=2, watch=True)
    running = start()
    wait_until(lambda: len(api.watches()) >= 3)
    api.put("claims", "a", spec=SPEC)
    wait_until(lambda: running.names() == {"a"})
    assert len(api.lists()) == 1


def test_failures_are_spaced_out_more_and_more(api: fake_api.FakeApi, start: Start) -> None:
    api.fail(500, times=1000, watch=True)
    began = time.monotonic()
    start(retry=backoff.Backoff(base_s=0.1, cap_s=30))
    wait_until(lambda: len(api.watches()) >= 4)
    # 0.05 + 0.1 + 0.2 s are the least that three waits take.
    assert time.monotonic() - began >= 0.3


def test_a_watch_that_ends_at_once_is_no_reason_to_spin(api: fake_api.FakeApi, start: Start) -> None:
    api.end_watches_at_once = True
    began = time.monotonic()
    start(retry=backoff.Backoff(base_s=0.2, cap_s=30))
    wait_until(lambda: len(api.watches()) >= 3)
    # 0.1 + 0.2 s are the least that two waits take.
    assert time.monotonic() - began >= 0.3


def test_an_event_resets_the_back_off(api: fake_api.FakeApi, start: Start) -> None:
    retry = backoff.Backoff(base_s=0.01, cap_s=0.1)
    api.fail(500, times=4, watch=True)
    running = start(retry=retry)
    wait_until(lambda: len(api.watches()) >= 5)
    assert retry.failures == 4
    api.put("claims", "a", spec=SPEC)
    wait_until(lambda: running.names() == {"a"})
    wait_until(lambda: retry.failures == 0)


def test_the_first_list_is_tried_until_it_works(api: fake_api.FakeApi, start: Start) -> None:
    api.put("claims", "a", spec=SPEC)
    api.fail(500, times=3, watch=False)
    assert start().names() == {"a"}


def test_an_event_that_cannot_be_read_counts_as_absence(api: fake_api.FakeApi, start: Start) -> None:
    api.put("claims", "a", spec=SPEC)
    running = start()
    api.put("claims", "a", spec="no object")
    wait_until(lambda: running.names() == set())
    api.put("claims", "b", spec=SPEC)
    wait_until(lambda: running.names() == {"b"})


def test_it_stops_soon_inside_a_silent_watch(api: fake_api.FakeApi, start: Start) -> None:
    running = start()
    wait_until(api.watches)
    time.sleep(0.2)
    assert ends(running), "long before the watch does"


def test_it_stops_soon_while_waiting_to_retry(api: fake_api.FakeApi, start: Start) -> None:
    api.fail(500, times=1000, watch=True)
    running = start(retry=backoff.Backoff(base_s=1000, cap_s=1000))
    wait_until(api.watches)
    assert ends(running), "long before it would try again"


def test_it_keeps_its_store_while_the_server_is_away(api: fake_api.FakeApi, start: Start) -> None:
    api.put("claims", "a", spec=SPEC)
    running = start()
    wait_until(api.watches)
    api.fail(503, times=1000)
    api.cut()
    wait_until(lambda: len(api.watches()) >= 4)
    assert running.names() == {"a"}
    assert running.notified == ["default/a"]


def test_the_selector_decides_what_is_mirrored(api: fake_api.FakeApi, start: Start) -> None:
    claim = {"metadata": {"name": "a", "namespace": "default", "labels": {"x": "y"}}, "spec": SPEC}
    with api.changed:
        api.store(("claims", "default", "a"), claim)
    api.put("claims", "b", spec=SPEC)
    running = start(selector="x=y")
    assert running.names() == {"a"}
    assert isinstance(running.reflector.get("default/a"), fleet.Claim)


def remember(running: ReflectorThread, obj: fake_api.Object) -> None:
    running.reflector.remember(encoding.decode(resource.CLAIMS, json.dumps(obj).encode()))


def test_our_write_is_known_before_the_watch_reports_it_and_notified_once(api: fake_api.FakeApi, start: Start) -> None:
    api.put("claims", "a", spec=SPEC)
    running = start()
    wait_until(api.watches)
    with api.changed:  # while we hold this, no watch says anything
        fresh = api.store(("claims", "default", "b"), {"metadata": {"name": "b", "namespace": "default"}, "spec": SPEC})
        remember(running, fresh)
        remember(running, fresh)  # a write that changed nothing is not reported
        assert running.names() == {"a", "b"}
    api.put("claims", "c", spec=SPEC)
    wait_until(lambda: running.notified == ["default/a", "default/b", "default/c"])


def test_what_the_watch_said_is_not_undone_by_our_older_write(api: fake_api.FakeApi, start: Start) -> None:
    mine = api.put("claims", "a", spec=SPEC | {"owner": "me"})
    gone = api.put("claims", "b", spec=SPEC)
    running = start()
    wait_until(api.watches)
    api.put("claims", "a", spec=SPEC | {"owner": "another"})
    api.remove("claims", "b")
    wait_until(lambda: running.names() == {"a"} and running.owner("a") == "another")
    remember(running, mine)
    remember(running, gone)
    assert running.names() == {"a"}
    assert running.owner("a") == "another"


def test_an_older_event_does_not_undo_our_write(api: fake_api.FakeApi, start: Start) -> None:
    api.put("claims", "a", spec=SPEC)
    running = start()
    wait_until(api.watches)
    with api.changed:
        api.put("claims", "a", spec=SPEC | {"owner": "another"})
        mine = api.put("claims", "a", spec=SPEC | {"owner": "me"})
        remember(running, mine)
    api.put("claims", "last", spec=SPEC)
    wait_until(lambda: running.notified == ["default/a", "default/a", "default/last"])
    assert running.owner("a") == "me"
