"""How many blocks a node wants, and when it returns one."""

from __future__ import annotations

import ipaddress

import pytest
from fake_clock import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from cnf.attach.node_network import demand, network
from fleetboard.model.addresses import Network

FIRST, SECOND, THIRD = (ipaddress.ip_network(f"10.113.4.{start}/26") for start in (0, 64, 128))
IDLE_S = 100.0


@pytest.mark.parametrize(
    ("held", "free", "waiting", "wanted"),
    [
        (0, 0, 0, 1),
        (1, 63, 0, 1),
        (1, demand.LOW_WATER, 0, 1),
        (1, demand.LOW_WATER - 1, 0, 2),
        (2, 0, 0, 3),
        (1, 0, 48, 2),
        (1, 0, 49, 3),
        (0, 0, 200, 4),
    ],
)
def test_a_node_asks_before_it_runs_out_and_for_all_who_wait(held: int, free: int, waiting: int, wanted: int) -> None:
    assert demand.wanted_blocks(held=held, free=free, waiting=waiting) == wanted


def choose(surplus: demand.Surplus, *idle: Network, free: int) -> tuple[Network, ...]:
    return surplus.choose([FIRST, SECOND, THIRD], idle=idle, free=lambda version: free if version == 4 else 0)


def test_a_block_is_returned_when_it_was_empty_for_long_but_never_the_first() -> None:
    clock = FakeClock()
    surplus = demand.Surplus(idle_s=IDLE_S, clock=clock)
    assert choose(surplus, FIRST, SECOND, THIRD, free=300) == ()
    clock.now = IDLE_S
    assert choose(surplus, FIRST, SECOND, THIRD, free=300) == (THIRD, SECOND)


def test_a_block_that_was_used_in_between_starts_again() -> None:
    clock = FakeClock()
    surplus = demand.Surplus(idle_s=IDLE_S, clock=clock)
    choose(surplus, THIRD, free=191)
    clock.now = 50
    choose(surplus, free=190)
    clock.now = 100
    assert choose(surplus, THIRD, free=191) == ()
    clock.now = 200
    assert choose(surplus, THIRD, free=191) == (THIRD,)


def test_what_is_left_is_enough_for_a_while() -> None:
    clock = FakeClock()
    surplus = demand.Surplus(idle_s=0, clock=clock)
    assert choose(surplus, THIRD, free=64 + demand.HIGH_WATER - 1) == ()
    assert choose(surplus, THIRD, free=64 + demand.HIGH_WATER) == (THIRD,)


@given(st.integers(0, 191), st.sets(st.sampled_from([SECOND, THIRD])))
def test_a_node_that_returns_a_block_does_not_ask_for_one(used: int, idle: set[Network]) -> None:
    free = 191 - used
    returned = choose(demand.Surplus(idle_s=0, clock=FakeClock()), *idle, free=free)
    left = free - sum(block.num_addresses for block in returned)
    held = 3 - len(returned)
    assert not returned or demand.wanted_blocks(held=held, free=left) == held


def test_a_node_holds_what_it_gives_addresses_of_and_what_its_pods_live_in() -> None:
    first, second, third, other = (ipaddress.ip_network(f"10.113.4.{start}/26") for start in (64, 0, 128, 192))
    known = network.NodeNetwork(first[0], (first, second, third), (), 1360, returned=(third,))
    assert demand.held_blocks(known, [first[5], other[9]]) == (first, second, other)
    # Nothing is remembered: the first address of the second is a pod's, so it isn't the node's first.
    assert demand.held_blocks(None, [second[0], first[5], second[1]]) == (first, second)
