"""How many blocks a node wants, and which of them it can do without.

One invariant: between asking for a block and giving it back lie at least ``HIGH_WATER - LOW_WATER`` addresses and
``IDLE_S`` seconds, so a node whose pods come and go doesn't do both by turns.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Collection, Iterable

from cnf.attach.node_network.network import NodeNetwork
from fleetboard.model.addresses import NODE_BLOCK_PREFIX, Address, Network

LOW_WATER = 16
"""With fewer free addresses than this a node asks for a further block: what starts while the leader gives it."""
HIGH_WATER = 32
"""A block is given back only when at least so many addresses are free without it."""
IDLE_S = 120.0
"""For how long a block must have been empty, the rest of its last address not counted."""

_SIZE = 1 << (32 - NODE_BLOCK_PREFIX[4])


def wanted_blocks(*, held: int, free: int, waiting: int = 0) -> int:
    """Return how many blocks a node wants that gives addresses of ``held``; ``waiting`` ADDs found none free."""
    missing = LOW_WATER + waiting - free
    return held + max(0, -(-missing // _SIZE))


def held_blocks(known: NodeNetwork | None, addresses: Collection[Address]) -> tuple[Network, ...]:
    """Return the blocks that a node gives addresses of, in their order, and then those its pods' addresses are of.

    The API may have lost them, and where nothing is remembered the addresses say which block can't be the node's
    first: that one's first address is the node's own.
    """
    known_blocks = known.blocks if known is not None else ()
    found = {
        ipaddress.ip_network((address, NODE_BLOCK_PREFIX[address.version]), strict=False)
        for address in addresses
        if not any(address in block for block in known_blocks)
    }
    others = sorted(found, key=lambda block: (block.network_address in addresses, block.version, block))
    return (*(known.active_blocks if known is not None else ()), *others)


class Surplus:
    """Says which blocks have been idle for long enough; of one thread at a time."""

    def __init__(self, *, idle_s: float = IDLE_S, clock: Callable[[], float] = time.monotonic) -> None:
        """No block is known at first."""
        self._idle_s, self._clock = idle_s, clock
        self._since: dict[Network, float] = {}

    def choose(
        self, blocks: Iterable[Network], *, idle: Iterable[Network], free: Callable[[int], int]
    ) -> tuple[Network, ...]:
        """Return what can be given back: the last blocks first, never the first of a family.

        ``blocks`` are those addresses are given of, in their order, ``idle`` those of them that are empty now, and
        ``free`` counts the free addresses of a family.
        """
        now = self._clock()
        self._since = {block: self._since.get(block, now) for block in idle}
        chosen: list[Network] = []
        for version in (4, 6):
            left = free(version)
            for block in [block for block in blocks if block.version == version][:0:-1]:
                rested = block in self._since and now - self._since[block] >= self._idle_s
                if rested and left - block.num_addresses >= HIGH_WATER:
                    chosen.append(block)
                    left -= block.num_addresses
        return tuple(chosen)
