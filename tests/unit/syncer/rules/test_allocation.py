"""Which addresses and blocks an owner may try, and in what order."""

from __future__ import annotations

import datetime
import ipaddress
import itertools

from hypothesis import given
from hypothesis import strategies as st

from fleetboard.model import addresses
from fleetboard.model.addresses import Network
from syncer.rules import allocation
from syncer.rules.allocation import Held

PLAN = addresses.parse_fleet_cidr("10.112.0.0/12")
SMALL = addresses.parse_fleet_cidr("10.112.0.0/17")
FLEET6 = addresses.parse_fleet_cidr("fd00:1:2::/48")
HOUR = datetime.timedelta(hours=1)


def net(text: str) -> Network:
    return ipaddress.ip_network(text)


@given(st.text(min_size=1))
def test_a_vip_is_in_the_range_and_never_its_first_or_last_address(owner: str) -> None:
    for (unit,) in itertools.islice(allocation.choose_vip(SMALL.vips, owner, lambda _: None), 100):
        assert unit.subnet_of(SMALL.vips)  # type: ignore[arg-type]
        assert unit.network_address not in (SMALL.vips.network_address, SMALL.vips.broadcast_address)


def test_a_names_first_vip_is_always_the_same() -> None:
    first, second = (next(allocation.choose_vip(PLAN.vips, "shop.web", lambda _: None)) for _ in range(2))
    assert first == second


def test_every_address_of_a_full_range_is_tried() -> None:
    tried = {unit for (unit,) in allocation.choose_vip(SMALL.vips, "shop.web", lambda _: None)}
    assert len(tried) == allocation.vip_room(SMALL.vips) == SMALL.vips.num_addresses - 2


def test_an_owners_old_vip_comes_first() -> None:
    old = net("10.112.9.9/32")
    held = {old: Held("shop.web", HOUR)}
    assert next(allocation.choose_vip(PLAN.vips, "shop.web", held.get, old=[old])) == (old,)


def test_a_released_address_rests_for_a_day_for_others() -> None:
    assert not Held("a", None).free_for("a")
    assert Held("a", HOUR).free_for("a")
    assert not Held("a", 23 * HOUR).free_for("b")
    assert Held("a", 24 * HOUR).free_for("b")


def test_the_first_block_follows_the_vip_range() -> None:
    assert next(allocation.choose_block(PLAN, "hub", lambda _: None, units=1)) == (net("10.113.0.0/22"),)
    assert next(allocation.choose_block(FLEET6, "hub", lambda _: None, units=1)) == (net("fd00:1:2:100::/56"),)


def test_a_doubled_block_is_aligned_units_side_by_side() -> None:
    held = {net("10.113.0.0/22"): Held("c1"), net("10.113.8.0/22"): Held("c2")}
    group = next(allocation.choose_block(PLAN, "c1", held.get, units=2))
    assert group == (net("10.113.16.0/22"), net("10.113.20.0/22"))


def test_a_fragmented_fleet_gives_smaller_blocks() -> None:
    taken = [block for number, block in enumerate(SMALL.cluster_blocks()) if number % 2]
    held = dict.fromkeys(taken, Held("other"))
    assert len(next(allocation.choose_block(SMALL, "c1", held.get, units=8))) == 1


def test_a_full_fleet_gives_nothing() -> None:
    held = dict.fromkeys(SMALL.cluster_blocks(), Held("other"))
    assert list(allocation.choose_block(SMALL, "c1", held.get, units=1)) == []


def test_blocks_double_as_they_fill() -> None:
    assert [allocation.units_of(blocks) for blocks in (1, 2, 3)] == [1, 3, 7]
    assert [allocation.next_size(owned, wanted=7) for owned in (0, 1, 3)] == [1, 2, 4]
    assert allocation.next_size(0, wanted=63) == 1
    assert allocation.next_size(2, wanted=3) == 1


def test_what_was_shown_keeps_its_place() -> None:
    units = [net("10.113.0.0/22"), net("10.113.4.0/22"), net("10.113.16.0/22"), net("10.113.20.0/22")]
    assert allocation.assemble(["10.113.4.0/22"], units) == [
        net("10.113.4.0/22"),
        net("10.113.0.0/22"),
        net("10.113.16.0/21"),
    ]


_units = st.lists(st.sampled_from(list(itertools.islice(PLAN.cluster_blocks(), 32))), unique=True)


@given(_units, _units)
def test_blocks_shown_stay_as_they_are_while_others_are_added(before: list[Network], added: list[Network]) -> None:
    shown = [str(block) for block in allocation.assemble([], before)]
    after = allocation.assemble(shown, [*before, *added])
    assert [str(block) for block in after[: len(shown)]] == shown
    assert sum(block.num_addresses for block in after) == 1024 * len({*before, *added})


def test_250_clusters_of_ten_full_nodes_fit() -> None:
    nodes = 1 << (addresses.NODE_BLOCK_PREFIX[4] - addresses.CLUSTER_BLOCK_PREFIX[4])
    assert nodes >= 10
    assert allocation.block_room(PLAN) == len(list(PLAN.cluster_blocks())) >= 250


def test_room_is_counted_as_it_is_given() -> None:
    for layout in (PLAN, SMALL, FLEET6):
        assert allocation.block_room(layout) == len(list(layout.cluster_blocks()))


def test_a_claim_that_cannot_be_read_was_released_just_now() -> None:
    now = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    assert allocation.since("", now=now) is None
    assert allocation.since("2026-01-01T00:00:00Z", now=now) == 24 * HOUR
    for unreadable in ("yesterday", "2026-01-01T00:00:00"):
        assert allocation.since(unreadable, now=now) == datetime.timedelta()
