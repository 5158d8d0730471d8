"""Slots of the virtual addresses' maps are shared out evenly, and stay where they were."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnf.vip import slots


def targets(count: int, *, network: int = 0) -> tuple[str, ...]:
    return tuple(sorted(f"10.113.{network + number // 250}.{number % 250} . 8080" for number in range(count)))


def moved(before: tuple[str, ...], after: tuple[str, ...]) -> float:
    return sum(old != new for old, new in zip(before, after, strict=True)) / len(before)


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (2, 16), (5, 16), (6, 128), (42, 128), (43, 1024), (341, 1024), (3000, 1024)]
)
def test_the_size_class_grows_with_the_targets(count: int, size: int) -> None:
    assert slots.size_class(count) == size
    assert len(slots.assign(targets(count))) == size


@given(st.sets(st.integers(0, 2**32), min_size=1, max_size=60))
def test_every_target_gets_a_share_within_its_bounds(numbers: set[int]) -> None:
    names = tuple(sorted(map(str, numbers)))

    shares = Counter(slots.assign(names))

    assert set(shares) == set(names)
    even = slots.size_class(len(names)) / len(names)
    assert max(shares.values()) <= -(-even * 5 // 4)
    assert min(shares.values()) >= max(1, even * 3 // 4)


@pytest.mark.parametrize(("count", "shares"), [(2, {8}), (3, {5, 6}), (4, {4}), (5, {3, 4})])
def test_few_targets_get_even_shares(count: int, shares: set[int]) -> None:
    assert set(Counter(slots.assign(targets(count))).values()) == shares


def test_each_of_600_endpoints_gets_traffic() -> None:
    shares = Counter(slots.assign(targets(600)))

    assert len(shares) == 600
    assert max(shares.values()) <= 3


def test_the_assignment_is_the_same_in_every_process() -> None:
    owners = slots.assign(("10.113.0.10 . 8080", "10.113.0.11 . 8080", "10.113.0.12 . 8080"))

    # By the last digit of the address. Another result would send connections of running clusters elsewhere.
    assert "".join(owner[len("10.113.0.1")] for owner in owners) == "0200112210120021"


def test_it_depends_on_the_names_alone_and_not_on_how_many_were_asked_before() -> None:
    before = slots.assign(targets(4))
    slots.assign.cache_clear()
    slots.assign(targets(7))

    assert slots.assign(targets(4)) == before


@pytest.mark.parametrize(("count", "factor"), [(3, 1.3), (5, 1.5), (10, 1.4), (30, 2.0), (60, 2.0), (200, 2.8)])
def test_a_target_that_leaves_moves_little_more_than_its_own_share(count: int, factor: float) -> None:
    shares = []
    for network in range(0, 100, 10) if count < 200 else (0,):
        names = targets(count, network=network)
        before = slots.assign(names)
        for number in range(0, count, max(1, count // 4)):
            after = slots.assign(names[:number] + names[number + 1 :])
            if len(after) == len(before):
                shares.append(moved(before, after))

    assert sum(shares) / len(shares) <= factor / count


def test_the_two_bands_of_many_targets_give_the_same_as_one_would(monkeypatch: pytest.MonkeyPatch) -> None:
    names = targets(150)
    in_bands = slots.assign(names)

    monkeypatch.setattr(slots, "CONTENDERS_A_SLOT", 1000)
    slots.assign.cache_clear()

    assert slots.assign(names) == in_bands
    slots.assign.cache_clear()
