"""Which slot of a hash map belongs to which target: rendezvous hashing with even shares.

A client's packet is hashed to one of 1, 16, 128 or 1024 slots, and the map says who has that slot. Plain rendezvous
hashing gives every slot to the target of the highest weight; the shares then scatter like a binomial (three targets
in 16 slots: 5.3 +- 1.9; of 600 in 1024, one in six gets none). Here slots are assigned by falling weight over
all pairs, and every target gets as many as its bounds allow (``_bounds``).

Invariant: the assignment is a function of the set of targets alone. It is the same after a restart, on every node, and
in whatever order the targets were learned. A target that comes or goes among n moves 1/n of the slots, and some more
because of the bounds: 1.1 times that with three targets, 1.2 with ten, 1.7 with sixty (measured over random sets).
"""

from __future__ import annotations

import functools
import hashlib
import struct

SIZES = (1, 16, 128, 1024)
"""Slots of a map, by size class; powers of two, so that the hash for the largest serves all by masking."""

_SLOTS_A_TARGET = 3
_SLOT_BITS = 10
_TARGET_BITS = 22
CONTENDERS_A_SLOT = 8


def size_class(targets: int) -> int:
    """Return the number of slots for ``targets`` targets: one, or at least three for each as far as the classes go.

    With three, no target of up to five gets more than a quarter above its even share (16 slots: 6, 5, 5; 4, 4, 4, 4;
    4, 3, 3, 3, 3). Memory and loading time decide against more: most services have one to five endpoints, and
    eight times the slots cost eight times as much. From 342 targets on some get one slot of 1024 and some get four,
    and past 1024 some have none.
    """
    if targets <= 1:
        return SIZES[0]
    return next((size for size in SIZES[1:] if size >= targets * _SLOTS_A_TARGET), SIZES[-1])


@functools.lru_cache(maxsize=4096)
def assign(targets: tuple[str, ...]) -> tuple[str, ...]:
    """Return the target of each slot.

    Args:
        targets: Names, sorted and each once, at least one.
    """
    size = size_class(len(targets))
    if size == 1:
        return targets
    pairs = _weighted_pairs(targets, size)
    contenders = size * CONTENDERS_A_SLOT
    if len(pairs) <= 2 * contenders:
        pairs.sort(reverse=True)
        return tuple(targets[index] for index in _share_out([pairs], targets=len(targets), size=size))
    # Most slots go to one of their few best pairs: the long tail is sorted only for the slots left after those.
    bar = (2**32 - (2**32 * contenders) // len(pairs)) << (_SLOT_BITS + _TARGET_BITS)
    best = sorted([pair for pair in pairs if pair >= bar], reverse=True)
    rest = [pair for pair in pairs if pair < bar]
    return tuple(targets[index] for index in _share_out([best, rest], targets=len(targets), size=size))


def _weighted_pairs(targets: tuple[str, ...], size: int) -> list[int]:
    """Return weight, target and slot of every pair, packed into integers that sort by weight."""
    weights = struct.Struct(f"<{size}I")
    pairs: list[int] = []
    for index, target in enumerate(targets):
        # Ties of equal weights go by target and slot: sorted names keep their order when others come and go.
        low = index << _SLOT_BITS
        digest = hashlib.shake_128(target.encode()).digest(weights.size)
        pairs += [
            weight << (_SLOT_BITS + _TARGET_BITS) | low | slot for slot, weight in enumerate(weights.unpack(digest))
        ]
    return pairs


def _bounds(targets: int, size: int) -> tuple[int, int]:
    """Return how few and how many slots a target may have.

    Among the few of 16 slots: the even share, rounded down and up. In larger classes a quarter less and more of it:
    exactly even shares would have to move 2.5 to 4.5 times as many slots as the one target that came or went.
    """
    if size <= SIZES[1]:
        return size // targets, -(-size // targets)
    return (max(1, size * 3 // (targets * 4)) if targets <= size else 0), -(-size * 5 // (targets * 4))


def _share_out(bands: list[list[int]], *, targets: int, size: int) -> list[int]:
    """Assign slots by falling weight, to each target as many as its bounds allow.

    Args:
        bands: Pairs by falling weight band; the first is sorted, later ones are filtered before they are.
        targets: Number of targets.
        size: Number of slots.
    """
    low, high = _bounds(targets, size)
    above_low = size - low * targets
    taken = [0] * targets
    owner = [-1] * size
    for number, band in enumerate(bands):
        limit = high if above_low else low
        pairs = band if number == 0 else sorted(_open_pairs(band, owner, taken, limit=limit), reverse=True)
        for pair in pairs:
            slot = pair & (2**_SLOT_BITS - 1)
            index = pair >> _SLOT_BITS & (2**_TARGET_BITS - 1)
            count = taken[index]
            if owner[slot] >= 0 or count >= high or (count >= low and not above_low):
                continue
            above_low -= count >= low
            taken[index] = count + 1
            owner[slot] = index
    return owner


def _open_pairs(pairs: list[int], owner: list[int], taken: list[int], *, limit: int) -> list[int]:
    """Return the pairs whose slot is free and whose target may still take one."""
    free = {slot for slot, index in enumerate(owner) if index < 0}
    wanting = {index for index, count in enumerate(taken) if count < limit}
    return [
        pair
        for pair in pairs
        if pair & (2**_SLOT_BITS - 1) in free and pair >> _SLOT_BITS & (2**_TARGET_BITS - 1) in wanting
    ]
