"""Leader election: the rules against a virtual clock, and the elector against a server."""

from __future__ import annotations

import datetime
import logging
import random
import threading
import time
from collections.abc import Iterator

import fake_api
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polling import wait_until

from fleetboard.kube import lease
from fleetboard.model import core, meta, resource

WALL = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Store:
    """One Lease with compare-and-swap, as the API keeps it."""

    def __init__(self) -> None:
        self.lease: core.Lease | None = None
        self.version = 0

    def write(self, read: core.Lease | None, spec: core.LeaseSpec) -> bool:
        mine = read.metadata.resource_version if read else None
        theirs = self.lease.metadata.resource_version if self.lease else None
        if mine != theirs:
            return False
        self.version += 1
        self.lease = core.Lease(metadata=meta.ObjectMeta(name="l", resource_version=str(self.version)), spec=spec)
        return True


class Player:
    """A candidate whose requests take time, fail, or succeed without its receiving the answer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rules = lease.Candidacy(name, duration_s=15, deadline_s=10)
        self.read: core.Lease | None = None
        self.started = 0.0
        self.waiting = False
        self.next = 0.0
        self.cut = False

    def act(self, store: Store, now: float, rnd: random.Random) -> None:
        if not self.waiting:
            self.started, self.read, self.waiting = now, store.lease, True
            self.next = now + rnd.uniform(0, 4)
            return
        self.waiting, self.next = False, now + rnd.uniform(1.6, 2.4)
        if self.cut:
            return
        spec = self.rules.next_record(self.read, now, wall=WALL + datetime.timedelta(seconds=now))
        if spec is None or not store.write(self.read, spec):
            return
        if rnd.random() > 0.1:  # else the answer was lost
            self.rules.renewed(self.started)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_there_are_never_two_leaders(seed: int, somebody_deletes: bool) -> None:
    rnd = random.Random(seed)
    store, players = Store(), [Player(name) for name in "abc"]
    led: set[str] = set()
    epochs: dict[int, str] = {}
    now = 0.0
    for step in range(4000):
        now += 0.5
        if rnd.random() < 0.02:
            player = rnd.choice(players)
            player.cut = not player.cut
        if somebody_deletes and step % 300 == 299:
            store.lease = None
        for player in players:
            if now >= player.next:
                player.act(store, now, rnd)
        leaders = [player.name for player in players if player.rules.leading(now)]
        assert len(leaders) <= 1, (now, leaders)
        led |= set(leaders)
        for player in players:
            if player.rules.leading(now) and not somebody_deletes:
                assert epochs.setdefault(player.rules.epoch, player.name) == player.name
    assert led


def make_lease(spec: core.LeaseSpec) -> core.Lease:
    return core.Lease(metadata=meta.ObjectMeta(name="l", namespace="n", resource_version="1"), spec=spec)


FREE = make_lease(core.LeaseSpec())


def claim(rules: lease.Candidacy, read: core.Lease | None, now: float) -> core.LeaseSpec | None:
    return rules.next_record(read, now, wall=WALL)


def taken(rules: lease.Candidacy, read: core.Lease | None, now: float) -> core.LeaseSpec:
    spec = claim(rules, read, now)
    assert spec is not None
    rules.renewed(now)
    return spec


def make_rules(name: str = "a") -> lease.Candidacy:
    return lease.Candidacy(name, duration_s=15, deadline_s=10)


def test_a_rival_waits_out_the_whole_duration() -> None:
    held = make_lease(taken(make_rules("b"), FREE, 0))
    rules = make_rules()
    assert claim(rules, held, 100) is None
    assert claim(rules, held, 114.9) is None
    spec = claim(rules, held, 115)
    assert spec is not None
    assert (spec.holder_identity, spec.lease_transitions) == ("a", 2)


def test_a_holder_with_a_longer_duration_is_given_it() -> None:
    held = make_lease(core.LeaseSpec(holder_identity="b", lease_duration_seconds=60, lease_transitions=1))
    rules = make_rules()
    assert claim(rules, held, 0) is None
    assert claim(rules, held, 59) is None
    assert claim(rules, held, 60) is not None


def test_a_renewal_keeps_epoch_and_time_of_taking() -> None:
    rules = make_rules()
    first = taken(rules, FREE, 0)
    again = rules.next_record(make_lease(first), 2, wall=WALL + datetime.timedelta(seconds=2))
    assert again is not None
    assert (again.acquire_time, again.lease_transitions) == (first.acquire_time, 1)
    assert again.renew_time == "2026-01-01T00:00:02.000000Z"


def test_a_term_ends_by_the_clock_alone() -> None:
    rules = make_rules()
    taken(rules, FREE, 0)
    assert rules.leading(9.9)
    assert not rules.leading(10)


def test_a_released_lease_is_taken_at_once_with_the_next_epoch() -> None:
    rules = make_rules("b")
    held = make_lease(taken(rules, FREE, 0))
    released = rules.released(held)
    assert released is not None
    assert not rules.leading(0)
    assert taken(make_rules(), make_lease(released), 0).lease_transitions == 2


def test_a_restarted_holder_goes_on_with_a_new_epoch_and_ends_its_predecessors_term() -> None:
    old, new = make_rules(), make_rules()
    held = make_lease(taken(old, FREE, 0))
    took = taken(new, held, 1)
    assert took.lease_transitions == 2
    assert claim(old, make_lease(took), 2) is None
    assert not old.leading(2)


def test_a_deleted_lease_keeps_rivals_waiting_and_the_epoch_rising() -> None:
    holder, rival = make_rules("b"), make_rules()
    held = make_lease(msgspec.structs.replace(taken(holder, FREE, 0), lease_transitions=1))
    assert claim(rival, held, 1) is None
    assert claim(rival, None, 2) is None
    assert claim(rival, None, 9) is None
    again = claim(holder, None, 2)
    assert again is not None
    assert again.lease_transitions == 2
    spec = claim(rival, None, 17)
    assert spec is not None
    assert spec.lease_transitions == 2


def test_a_lease_that_was_never_there_is_made_after_a_whole_duration() -> None:
    rules = make_rules()
    assert claim(rules, None, 100) is None
    assert claim(rules, None, 108) is None
    spec = claim(rules, None, 115)
    assert spec is not None
    assert spec.lease_transitions == 1


def test_a_candidate_that_could_not_look_waits_again_for_an_absent_lease() -> None:
    rules = make_rules()
    assert claim(rules, None, 100) is None
    assert claim(rules, None, 200) is None
    assert claim(rules, None, 208) is None
    assert claim(rules, None, 215) is not None


def test_impossible_times_are_refused() -> None:
    with fake_api.FakeApi() as api, pytest.raises(ValueError, match="period < deadline < duration"):
        lease.Elector(api.client(), namespace="n", name="l", identity="a", duration_s=5, deadline_s=5, period_s=1)


class ElectorThread:
    """An elector in its thread; by default no term ends, and no request is given up, within a test."""

    def __init__(self, api: fake_api.FakeApi, name: str, *, duration_s: float = 600, deadline_s: float = 300) -> None:
        self.happened: list[str] = []
        self.elector = lease.Elector(
            api.client(),
            namespace="default",
            name="l",
            identity=name,
            duration_s=duration_s,
            deadline_s=deadline_s,
            period_s=0.1,
        )
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.elector.run(
            self.stop,
            on_start=lambda: self.happened.append("start"),
            on_stop=lambda: self.happened.append(f"stop {self.elector.leading}"),
        )

    def end(self) -> None:
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def api(caplog: pytest.LogCaptureFixture) -> Iterator[fake_api.FakeApi]:
    caplog.set_level(logging.CRITICAL)
    with fake_api.FakeApi() as running:
        running.put("leases", "l", spec={"holderIdentity": "", "leaseDurationSeconds": 1})
        yield running


def test_a_stopping_leader_hands_over_at_once(api: fake_api.FakeApi) -> None:
    first = ElectorThread(api, "a")
    wait_until(lambda: first.happened == ["start"])
    second = ElectorThread(api, "b")
    wait_until(lambda: second.elector.holder == "a")
    first.end()
    wait_until(lambda: second.elector.leading)  # who had to wait out the term would wait for ten minutes
    assert first.happened == ["start", "stop True"]
    assert (second.elector.holder, second.elector.epoch) == ("b", 2)
    second.end()
    stored = api.client().get(resource.LEASES, "l", "default")
    assert (stored.spec.holder_identity, stored.spec.lease_transitions) == ("", 2)


def test_a_leader_that_cannot_renew_stops_in_time_though_its_request_hangs(api: fake_api.FakeApi) -> None:
    running = ElectorThread(api, "a", duration_s=8, deadline_s=6)
    wait_until(lambda: running.happened == ["start"])
    api.stalled.set()
    began = time.monotonic()

    def is_over() -> bool:
        looked = time.monotonic()
        assert not running.elector.leading or looked < began + 6, "by the clock, whenever somebody looks"
        return running.happened == ["start", "stop False"]

    wait_until(is_over)
    api.stalled.clear()
    wait_until(lambda: running.elector.leading)
    assert running.elector.epoch == 1
    running.end()


def test_of_three_candidates_one_leads(api: fake_api.FakeApi) -> None:
    running = [ElectorThread(api, name) for name in "abc"]
    wait_until(lambda: any(one.elector.leading for one in running))
    for _ in range(50):
        assert sum(one.elector.leading for one in running) <= 1
        time.sleep(0.01)
    for one in running:
        one.end()


def test_a_holder_that_is_outbid_raises_its_epoch_without_losing_its_term() -> None:
    rules = make_rules()
    held = taken(rules, FREE, 0)
    rules.outbid(50)
    raised = taken(rules, make_lease(held), 2)
    assert raised.lease_transitions == 52
    assert rules.epoch == 52
    assert rules.leading(3)
    assert taken(rules, make_lease(raised), 4).lease_transitions == 52


@pytest.mark.parametrize("written", [False, True])
def test_a_raised_epoch_whose_answer_was_lost_costs_no_term(written: bool) -> None:
    rules = make_rules()
    held = taken(rules, FREE, 0)
    rules.outbid(50)
    raised = claim(rules, make_lease(held), 2)
    assert raised is not None
    again = taken(rules, make_lease(raised if written else held), 4)
    assert again.lease_transitions == 52
    assert rules.leading(5)


def test_a_namesake_that_took_over_is_not_taken_for_ones_own_raised_epoch() -> None:
    old, new = make_rules(), make_rules()
    held = make_lease(taken(old, FREE, 0))
    old.outbid(held.spec.lease_transitions)
    assert claim(old, held, 1) is not None
    took = taken(new, held, 1)
    assert claim(old, make_lease(took), 2) is None


def test_no_epoch_leaves_the_range_of_a_lease() -> None:
    rules = make_rules()
    rules.outbid(2**31 - 1)
    assert taken(rules, FREE, 0).lease_transitions == 1
