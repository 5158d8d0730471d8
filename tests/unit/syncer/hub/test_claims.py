"""No address has two owners, whichever hub allocates and whatever it knows."""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
from collections.abc import Iterator

import pytest
from fake_api import FakeApi
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetboard.model import addresses
from syncer.hub.claims import AddressesExhaustedError, Claims
from syncer.rules import allocation

PLAN = addresses.parse_fleet_cidr("10.112.0.0/17")
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Allocator:
    """A hub that knows only what it wrote itself, as one that was just elected."""

    def __init__(self, api: FakeApi) -> None:
        self.now = START
        self.claims = Claims(api.client(), clusterset="default", now=lambda: self.now)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api


_step = st.tuples(
    st.integers(0, 1),
    st.sampled_from(["c1", "c2", "c3"]),
    st.one_of(st.tuples(st.just("grow"), st.integers(1, 3)), st.just(("release", 0)), st.just(("vip", 0))),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(_step, max_size=12))
def test_two_hubs_that_know_nothing_of_each_other_never_give_one_block_twice(
    steps: list[tuple[int, str, tuple[str, int]]],
) -> None:
    with FakeApi() as api:
        hubs = [Allocator(api), Allocator(api)]
        in_use: dict[str, str] = {}
        for number, cluster, (verb, blocks) in steps:
            claims = hubs[number].claims
            # An owner is served by one hub at a time; what that hub gives must be nobody else's.
            owner = f"{cluster}-{number}"
            given_: list[addresses.Network] = []
            match verb:
                case "grow":
                    # Six owners may want more than there is: then one is refused, and nothing given twice.
                    with contextlib.suppress(AddressesExhaustedError):
                        given_ = claims.blocks(PLAN, owner, wanted=allocation.units_of(blocks))
                case "vip":
                    given_ = [claims.vip(PLAN, owner)]
                case _:
                    claims.release(allocation.CLUSTER_BLOCK, owner)
                    in_use = {name: who for name, who in in_use.items() if who != owner or name.endswith("-32")}
            for unit in given_:
                assert in_use.setdefault(addresses.claim_name(unit), owner) == owner


def test_services_that_come_at_once_get_an_address_each(api: FakeApi) -> None:
    claims = Allocator(api).claims
    numbers = range(300)  # of 2048 addresses: some thirty pairs have one first choice
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        given_ = list(pool.map(lambda number: claims.vip(PLAN, f"shop.s{number}"), numbers))
    assert len(set(given_)) == len(numbers)
    assert [claims.vip(PLAN, f"shop.s{number}") for number in numbers] == given_


def test_two_services_of_one_first_address_get_two(api: FakeApi) -> None:
    hubs = [Allocator(api), Allocator(api)]
    candidates = [next(allocation.choose_vip(PLAN.vips, f"shop.s{n}", lambda _: None))[0] for n in range(200)]
    first = next(n for n in range(200) if candidates.count(candidates[n]) > 1)
    second = candidates.index(candidates[first], first + 1)
    given_ = [hub.claims.vip(PLAN, f"shop.s{n}") for hub, n in zip(hubs, (first, second), strict=True)]
    assert given_[0] == candidates[first]
    assert given_[0] != given_[1]


def test_a_restarted_hub_finds_what_the_last_one_gave(api: FakeApi) -> None:
    given_ = Allocator(api).claims.vip(PLAN, "shop.web")
    assert Allocator(api).claims.vip(PLAN, "shop.web") == given_


def test_the_same_owner_gets_its_address_back(api: FakeApi) -> None:
    hub = Allocator(api)
    before = hub.claims.vip(PLAN, "shop.web"), hub.claims.blocks(PLAN, "c1", wanted=3)
    hub.claims.release(allocation.VIP, "shop.web")
    hub.claims.release(allocation.CLUSTER_BLOCK, "c1")
    assert hub.claims.owned(allocation.CLUSTER_BLOCK, "c1") == []
    hub.claims.blocks(PLAN, "c2", wanted=1)
    assert (hub.claims.vip(PLAN, "shop.web"), hub.claims.blocks(PLAN, "c1", wanted=3)) == before


def test_nobody_else_gets_a_released_block_for_a_day(api: FakeApi) -> None:
    hub = Allocator(api)
    first = hub.claims.blocks(PLAN, "c1", wanted=1)
    hub.claims.release(allocation.CLUSTER_BLOCK, "c1")
    hub.now = START + datetime.timedelta(hours=23)
    assert hub.claims.blocks(PLAN, "c2", wanted=1) != first
    hub.now = START + datetime.timedelta(hours=25)
    assert hub.claims.blocks(PLAN, "c3", wanted=1) == first


def test_rested_claims_are_swept_and_others_are_not(api: FakeApi) -> None:
    hub = Allocator(api)
    hub.claims.blocks(PLAN, "c1", wanted=1)
    hub.claims.vip(PLAN, "shop.web")
    hub.claims.release(allocation.CLUSTER_BLOCK, "c1")
    hub.claims.sweep()
    assert hub.claims.count(allocation.CLUSTER_BLOCK) == (0, 1)
    hub.now = START + datetime.timedelta(hours=25)
    hub.claims.sweep()
    assert hub.claims.count(allocation.CLUSTER_BLOCK) == (0, 0)
    assert hub.claims.count(allocation.VIP) == (1, 0)


def test_a_full_fleet_refuses_with_a_sentence_and_keeps_what_was_given(api: FakeApi) -> None:
    hub = Allocator(api)
    room = allocation.block_room(PLAN)
    hub.claims.blocks(PLAN, "c1", wanted=room)
    with pytest.raises(AddressesExhaustedError, match="no cluster-block is left for 'c2'"):
        hub.claims.blocks(PLAN, "c2", wanted=1)
    assert len(hub.claims.owned(allocation.CLUSTER_BLOCK, "c1")) == room


def test_a_claim_that_lies_about_its_address_serves_nobody(api: FakeApi) -> None:
    api.put(
        "claims",
        "10.112.16.0-22",
        "fleetboard-default",
        spec={"cidr": "10.112.20.0/22", "purpose": "cluster-block", "owner": "c1"},
    )
    assert [str(unit) for unit in Allocator(api).claims.blocks(PLAN, "c1", wanted=1)] != ["10.112.16.0/22"]
