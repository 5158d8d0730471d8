"""Allocates addresses from the node's blocks: next fit in the first block with room, with a quarantine after release.

Invariant: an address is in at most one of ``used`` and ``quarantined``, and only an address in neither is allocated.

There is no I/O and no clock here: callers pass the time, so every history can be replayed. Blocks fill in their order.
So a block that the node got for a busy hour empties again and can be returned.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
from collections.abc import Iterable

from cnf.attach import errors
from fleetboard.model.addresses import Address, Network

QUARANTINE_S = 60.0
"""How long a released address stays unused, because others may still send to its last holder."""


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """How many addresses of the node's blocks are in use, free and quarantined."""

    used: int
    free: int
    quarantined: int = 0


class Pool:
    """Addresses of the node's blocks, of one or both families."""

    def __init__(self) -> None:
        """The pool is empty until ``set_blocks``."""
        self._blocks: tuple[Network, ...] = ()
        self._excluded: frozenset[Address] = frozenset()
        self._used: set[Address] = set()
        self._quarantined: dict[Address, float] = {}
        self._last: dict[Network, Address] = {}

    @property
    def blocks(self) -> tuple[Network, ...]:
        """The blocks that addresses are allocated from."""
        return self._blocks

    def set_blocks(self, blocks: Iterable[Network], *, excluded: Iterable[Address]) -> None:
        """Replace the blocks; an address in use outside of them stays in use until it is released."""
        self._blocks = tuple(blocks)
        self._excluded = frozenset(excluded)

    def allocate(self, *, requested: Iterable[Address] = (), now: float) -> tuple[Address, ...]:
        """Allocate one address of each family of the blocks; the ``requested`` one of a family that has one.

        Raises:
            ExhaustedError: no address is free; nothing is allocated.
            CallRefusedError: a requested address can't be allocated; nothing is.
        """
        self._end_quarantines(now)
        wanted = self._check_requested(tuple(requested), now)
        allocated: list[Address] = []
        for version in sorted({block.version for block in self._blocks}):
            address = wanted.get(version) or self._next_free(version)
            if address is None:
                raise errors.ExhaustedError(self._exhausted(version))
            allocated.append(address)
        for address in allocated:
            self.hold(address)
            self._last |= {block: address for block in self._blocks if address in block}
        return tuple(allocated)

    def hold(self, address: Address) -> None:
        """Mark an address as used, such as one that was allocated before a restart."""
        self._quarantined.pop(address, None)
        self._used.add(address)

    def release(self, address: Address, *, until: float) -> None:
        """Release an address; it is quarantined until that time."""
        self._used.discard(address)
        self._quarantined[address] = until

    def usage(self, *, now: float) -> Usage:
        """Count addresses; with two families, of the one that has fewer free."""
        self._end_quarantines(now)
        versions = {block.version for block in self._blocks}
        if not versions:
            return Usage(len(self._used), 0, len(self._quarantined))
        counts = (self._count(version) for version in versions)
        return min(counts, key=lambda usage: usage.free)

    def free(self, version: int, *, now: float) -> int:
        """Count the free addresses of one family."""
        self._end_quarantines(now)
        return self._count(version).free

    def empty_blocks(self, *, now: float) -> tuple[Network, ...]:
        """Return the blocks of which no address is used or quarantined."""
        self._end_quarantines(now)
        return tuple(
            block
            for block in self._blocks
            if not any(address in block for address in (*self._used, *self._quarantined))
        )

    def covers(self, address: Address) -> bool:
        """Return whether an address is in one of the blocks."""
        return any(address in block for block in self._blocks)

    def _count(self, version: int) -> Usage:
        total = sum(block.num_addresses for block in self._blocks if block.version == version)
        excluded = sum(1 for address in self._excluded if self.covers(address) and address.version == version)
        used = [address for address in self._used if address.version == version]
        quarantined = [address for address in self._quarantined if address.version == version]
        inside = sum(1 for address in (*used, *quarantined) if self.covers(address))
        return Usage(len(used), total - excluded - inside, len(quarantined))

    def _end_quarantines(self, now: float) -> None:
        for address in [address for address, until in self._quarantined.items() if until <= now]:
            del self._quarantined[address]

    def _check_requested(self, requested: tuple[Address, ...], now: float) -> dict[int, Address]:
        wanted: dict[int, Address] = {}
        for address in requested:
            if not self.covers(address):
                blocks = ", ".join(str(block) for block in self._blocks) or "none"
                raise errors.CallRefusedError(
                    errors.Code.INVALID_CONFIG, f"requested address {address} is not in this node's blocks ({blocks})"
                )
            if address in self._excluded:
                raise errors.CallRefusedError(
                    errors.Code.INVALID_CONFIG, f"requested address {address} is the node's own"
                )
            if address in self._used:
                raise errors.CallRefusedError(errors.Code.TRY_AGAIN, f"requested address {address} is in use")
            if address in self._quarantined:
                left = self._quarantined[address] - now
                raise errors.CallRefusedError(
                    errors.Code.TRY_AGAIN, f"requested address {address} is quarantined for {left:.0f} s more"
                )
            if address.version in wanted:
                raise errors.CallRefusedError(
                    errors.Code.INVALID_CONFIG,
                    f"requested addresses {wanted[address.version]} and {address}: expected one of each family",
                )
            wanted[address.version] = address
        return wanted

    def _next_free(self, version: int) -> Address | None:
        """Return a free address of the first block that has one: the next after the last one allocated there."""
        for block in self._blocks:
            if block.version != version:
                continue
            first, end = int(block.network_address), int(block.broadcast_address) + 1
            after = int(self._last[block]) + 1 if block in self._last else first
            for value in itertools.chain(range(after, end), range(first, after)):
                address = ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value)
                if address not in self._used and address not in self._quarantined and address not in self._excluded:
                    return address
        return None

    def _exhausted(self, version: int) -> str:
        names = ", ".join(str(block) for block in self._blocks if block.version == version)
        count = self._count(version)
        return (
            f"no free address in this node's blocks ({names}): {count.used} in use, {count.quarantined} "
            "quarantined after release for up to 60 s"
        )
