"""The mirror of what some values select, while the values change."""

from __future__ import annotations

import string
import threading
import time
import urllib.parse
from collections.abc import Iterator

import fake_api
import pytest
from polling import wait_until

from fleetboard.kube import backoff, selective
from fleetboard.model import resource

LABEL = "fleetboard.io/service-namespace"


def put(api: fake_api.FakeApi, name: str, value: str, *, owner: str = "") -> None:
    with api.changed:
        obj = {
            "metadata": {"name": name, "namespace": "default", "labels": {LABEL: value}},
            "spec": {"cidr": "10.112.0.0/22", "purpose": "vip", "owner": owner},
        }
        api.store(("claims", "default", name), obj)


class MirrorThread:
    """A mirror in its thread, the keys it notified of, and the values it reported as covered."""

    def __init__(self, api: fake_api.FakeApi) -> None:
        self.notified: list[str] = []
        self.covered: list[selective.Values | None] = []
        self.mirror = selective.Selective(
            api.client(),
            resource.CLAIMS,
            label=LABEL,
            covered=self.covered.append,
            selector="!spare",
            notify=self.notified.append,
            retry=backoff.Backoff(base_s=0.02, cap_s=0.1),
        )
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.mirror.run, args=(self.stop,), daemon=True)
        self.thread.start()

    def names(self) -> set[str]:
        return {claim.metadata.name for claim in list(self.mirror.store.values())}

    def select(self, *values: str) -> None:
        """Select, and wait until each is covered."""
        self.mirror.select(frozenset(values))
        wait_until(lambda: all(self.mirror.covers(value) for value in values))


@pytest.fixture
def api() -> Iterator[fake_api.FakeApi]:
    with fake_api.FakeApi() as running:
        yield running


@pytest.fixture
def running(api: fake_api.FakeApi) -> Iterator[MirrorThread]:
    begun = MirrorThread(api)
    yield begun
    begun.stop.set()
    begun.thread.join(30)
    assert not begun.thread.is_alive()


def test_nothing_is_asked_before_the_first_selection(api: fake_api.FakeApi, running: MirrorThread) -> None:
    put(api, "a", "shop")
    time.sleep(0.2)
    assert not api.requests
    assert not running.mirror.covers("shop")


def test_only_selected_values_are_listed_and_watched(api: fake_api.FakeApi, running: MirrorThread) -> None:
    put(api, "a", "shop")
    put(api, "b", "other")
    running.select("shop", "web")
    assert running.names() == {"a"}
    put(api, "c", "other")
    put(api, "d", "web")
    wait_until(lambda: "d" in running.names())
    assert running.names() == {"a", "d"}
    selectors = {one.query["labelSelector"] for one in api.requests}
    assert selectors == {f"!spare,{LABEL} in (shop,web)"}


def test_no_value_selects_nothing(api: fake_api.FakeApi, running: MirrorThread) -> None:
    put(api, "a", "shop")
    running.select()
    assert running.mirror.synced.wait(30)
    assert running.names() == set()


def test_a_new_value_is_listed_and_the_others_are_not_listed_again(
    api: fake_api.FakeApi, running: MirrorThread
) -> None:
    put(api, "a", "shop")
    put(api, "b", "web")
    running.select("shop")
    wait_until(api.watches)
    running.select("shop", "web")
    assert running.names() == {"a", "b"}
    assert [one.query["labelSelector"] for one in api.lists()] == [
        f"!spare,{LABEL} in (shop)",
        f"!spare,{LABEL} in (web)",
    ]
    wait_until(lambda: len(api.watches()) == 2)
    put(api, "c", "web")
    put(api, "d", "shop")
    wait_until(lambda: running.names() == {"a", "b", "c", "d"})
    assert running.notified.count("default/a") == 1


def test_what_changed_before_a_value_was_listed_is_not_notified_again(
    api: fake_api.FakeApi, running: MirrorThread
) -> None:
    running.select("shop")
    wait_until(api.watches)
    # The watch of "shop" gets none of these and stays at its version: the next one begins before them.
    put(api, "gone", "web")
    put(api, "kept", "web", owner="old")
    put(api, "kept", "web", owner="new")
    api.remove("claims", "gone")
    running.select("shop", "web")
    wait_until(lambda: len(api.watches()) == 2)
    put(api, "last", "web")
    wait_until(lambda: running.notified == ["default/kept", "default/last"])


def test_a_value_that_is_left_out_takes_its_objects_along(api: fake_api.FakeApi, running: MirrorThread) -> None:
    put(api, "a", "shop")
    put(api, "b", "web")
    running.select("shop", "web")
    running.mirror.select(frozenset({"shop"}))
    wait_until(lambda: running.names() == {"a"} and running.notified[-1] == "default/b")
    assert not running.mirror.covers("web")
    put(api, "c", "web")
    put(api, "d", "shop")
    wait_until(lambda: "d" in running.names())
    assert running.names() == {"a", "d"}


def test_a_caller_that_waits_for_a_value_is_notified_once_it_is_covered(
    api: fake_api.FakeApi, running: MirrorThread
) -> None:
    running.select("shop")
    running.select("shop", "web")
    wait_until(lambda: len(running.covered) == 2)
    assert running.covered == [frozenset({"shop"}), frozenset({"web"})]


def test_no_change_is_missed_while_the_values_change(api: fake_api.FakeApi, running: MirrorThread) -> None:
    values = [f"v{number}" for number in range(20)]
    put(api, "first", values[0])
    running.select(values[0])
    done = threading.Event()
    written: dict[str, str] = {}

    def write() -> None:
        number = 0
        while not done.is_set():
            name, owner = f"c{number % 40}", str(number)
            put(api, name, values[number % 20], owner=owner)
            written[name] = owner
            number += 1
            time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    for count in range(2, 21):
        running.mirror.select(frozenset(values[:count]))
        time.sleep(0.02)
    time.sleep(0.1)
    done.set()
    writer.join()

    def owners() -> dict[str, str]:
        found = list(running.mirror.store.values())
        return {one.metadata.name: one.spec.owner for one in found if one.metadata.name != "first"}

    wait_until(lambda: owners() == written)


def test_after_a_compaction_everything_selected_is_listed_again(api: fake_api.FakeApi, running: MirrorThread) -> None:
    put(api, "a", "shop")
    running.select("shop")
    wait_until(api.watches)
    api.cut()
    put(api, "b", "web")
    put(api, "c", "shop")
    api.compact()
    running.select("shop", "web")
    wait_until(lambda: running.names() == {"a", "b", "c"})


def test_values_that_fit_into_no_url_mean_everything(api: fake_api.FakeApi, running: MirrorThread) -> None:
    put(api, "a", "shop")
    put(api, "b", "elsewhere")
    running.select("shop")
    many = frozenset(f"{number:03}-{string.ascii_lowercase * 2}" for number in range(2000))
    running.mirror.select(many)
    wait_until(lambda: running.names() == {"a", "b"})
    wait_until(lambda: running.mirror.covers("never-named"))
    assert api.lists()[-1].query["labelSelector"] == "!spare"
    running.select("shop")
    wait_until(lambda: running.names() == {"a"})


def test_a_proxy_that_takes_no_long_url_gets_everything(api: fake_api.FakeApi, running: MirrorThread) -> None:
    put(api, "a", "shop")
    put(api, "b", "web")
    running.select("shop")
    wait_until(api.watches)
    api.fail(414, watch=True)
    running.mirror.select(frozenset({"shop", "other"}))
    wait_until(lambda: running.names() == {"a", "b"})
    running.select("shop")
    put(api, "c", "elsewhere")
    wait_until(lambda: "c" in running.names())


@pytest.mark.parametrize(("names", "watches_all"), [(100, True), (2, False)])
def test_a_bad_request_counts_as_too_long_only_of_a_long_selector(
    api: fake_api.FakeApi, running: MirrorThread, names: int, watches_all: bool
) -> None:
    put(api, "a", "shop")
    put(api, "b", "web")
    running.select("shop")
    wait_until(api.watches)
    api.fail(400, reason="BadRequest", watch=False)
    wanted = frozenset({"shop", *(f"{number:03}".ljust(60, "x") for number in range(names))})
    running.mirror.select(wanted)
    wait_until(lambda: running.mirror.covers("000".ljust(60, "x")))
    assert running.names() == ({"a", "b"} if watches_all else {"a"})


def test_what_is_remembered_of_a_value_goes_with_it(api: fake_api.FakeApi, running: MirrorThread) -> None:
    running.select("shop")
    for number in range(5):
        running.select("shop", f"v{number}")
    running.select("shop")
    wait_until(lambda: not running.mirror.covers("v4"))
    put(api, "last", "shop")
    wait_until(lambda: "last" in running.names())
    assert set(running.mirror.floors) <= {"shop"}


def test_500_names_of_the_longest_kind_fit() -> None:
    longest = [f"{number:03}".ljust(63, "x") for number in range(500)]
    assert len(urllib.parse.quote(selective.render(LABEL, longest))) < selective.SELECTOR_LIMIT
