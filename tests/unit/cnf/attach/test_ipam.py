"""Which address comes next: next fit, quarantine, requests, growth."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cnf.attach import errors, ipam
from cnf.attach.errors import Code
from fleetboard.model.addresses import Address

ADDRESS = ipaddress.ip_address
NODE = ADDRESS("10.112.4.0")


def make_pool(*blocks: str) -> ipam.Pool:
    pool = ipam.Pool()
    pool.set_blocks([ipaddress.ip_network(block) for block in blocks], excluded=[NODE])
    return pool


def take(pool: ipam.Pool, *requested: str, now: float = 0) -> str:
    return str(pool.allocate(requested=[ADDRESS(text) for text in requested], now=now)[0])


def refusal(pool: ipam.Pool, *requested: str, now: float = 0) -> errors.CallRefusedError:
    with pytest.raises(errors.CallRefusedError) as caught:
        take(pool, *requested, now=now)
    return caught.value


def test_all_but_the_nodes_address_can_be_given() -> None:
    pool = make_pool("10.112.4.0/26")
    assert len({take(pool) for _ in range(63)}) == 63
    error = refusal(pool)
    assert error.code is Code.TRY_AGAIN
    assert "10.112.4.0/26" in error.message


def test_the_next_address_is_the_one_after_the_last_given() -> None:
    pool = make_pool("10.112.4.0/29")
    assert [take(pool) for _ in range(3)] == ["10.112.4.1", "10.112.4.2", "10.112.4.3"]
    pool.release(ADDRESS("10.112.4.2"), until=0)
    assert take(pool, now=1) == "10.112.4.4"
    assert [take(pool, now=1) for _ in range(4)] == ["10.112.4.5", "10.112.4.6", "10.112.4.7", "10.112.4.2"]


def test_a_released_address_is_quarantined() -> None:
    pool = make_pool("10.112.4.0/31")
    assert take(pool) == "10.112.4.1"
    pool.release(ADDRESS("10.112.4.1"), until=60)
    assert pool.usage(now=59) == ipam.Usage(used=0, free=0, quarantined=1)
    assert "1 quarantined" in refusal(pool, now=59).message
    assert "is quarantined" in refusal(pool, "10.112.4.1", now=59).message
    assert take(pool, now=60) == "10.112.4.1"


def test_a_request_is_given_exactly_or_refused() -> None:
    pool = make_pool("10.112.4.0/26")
    assert take(pool, "10.112.4.9") == "10.112.4.9"
    assert refusal(pool, "10.112.4.9").code is Code.TRY_AGAIN
    assert refusal(pool, "10.112.5.1").code is Code.INVALID_CONFIG
    assert refusal(pool, str(NODE)).code is Code.INVALID_CONFIG
    assert refusal(pool, "10.112.4.10", "10.112.4.11").code is Code.INVALID_CONFIG
    assert pool.usage(now=0).used == 1


def test_a_further_block_is_used_whole_when_the_first_is_full() -> None:
    pool = make_pool("10.112.4.0/31")
    take(pool)
    pool.set_blocks([ipaddress.ip_network(b) for b in ("10.112.4.0/31", "10.112.9.0/31")], excluded=[NODE])
    assert [take(pool), take(pool)] == ["10.112.9.0", "10.112.9.1"]


def test_an_address_of_a_block_taken_back_stays_used_and_is_not_given_again() -> None:
    pool = make_pool("10.112.4.0/30")
    held = take(pool)
    pool.set_blocks([ipaddress.ip_network("10.112.8.0/31")], excluded=[ADDRESS("10.112.8.0")])
    assert pool.usage(now=0) == ipam.Usage(used=1, free=1, quarantined=0)
    assert take(pool) == "10.112.8.1"
    pool.release(ADDRESS(held), until=0)
    assert refusal(pool, held, now=1).code is Code.INVALID_CONFIG


def test_two_families_are_given_together_or_not_at_all() -> None:
    pool = ipam.Pool()
    blocks = [ipaddress.ip_network("10.112.4.0/31"), ipaddress.ip_network("fd00::/64")]
    pool.set_blocks(blocks, excluded=[NODE, ADDRESS("fd00::")])
    assert pool.allocate(now=0) == (ADDRESS("10.112.4.1"), ADDRESS("fd00::1"))
    with pytest.raises(errors.ExhaustedError):
        pool.allocate(now=0)
    pool.release(ADDRESS("10.112.4.1"), until=0)
    pool.release(ADDRESS("fd00::1"), until=0)
    assert pool.allocate(now=1) == (ADDRESS("10.112.4.1"), ADDRESS("fd00::2"))


def test_an_empty_pool_has_nothing() -> None:
    assert ipam.Pool().usage(now=0) == ipam.Usage(used=0, free=0)
    assert ipam.Pool().allocate(now=0) == ()


class Histories(RuleBasedStateMachine):
    """Whatever is taken and released, nobody shares an address and none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = make_pool("10.112.4.0/29")
        self.size = 7
        self.now = 0.0
        self.held: list[Address] = []
        self.quarantined: dict[Address, float] = {}

    @rule()
    def take(self) -> None:
        free = self.size - len(self.held) - sum(until > self.now for until in self.quarantined.values())
        try:
            (address,) = self.pool.allocate(now=self.now)
        except errors.ExhaustedError:
            assert free == 0
            return
        assert address not in self.held
        assert self.quarantined.pop(address, 0) <= self.now
        self.held.append(address)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(self.held))
        self.held.remove(address)
        self.quarantined[address] = self.now + ipam.QUARANTINE_S
        self.pool.release(address, until=self.quarantined[address])

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.size == 7)
    @rule()
    def grow(self) -> None:
        blocks = [ipaddress.ip_network("10.112.4.0/29"), ipaddress.ip_network("10.112.7.4/30")]
        self.pool.set_blocks(blocks, excluded=[NODE])
        self.size += 4

    @invariant()
    def counts_agree(self) -> None:
        usage = self.pool.usage(now=self.now)
        assert usage.used == len(self.held)
        assert usage.used + usage.free + usage.quarantined == self.size


TestHistories = Histories.TestCase
