"""How many blocks a node wants, and which of its blocks it can return.

Invariant: between asking for a block and returning it lie at least ``HIGH_WATER - LOW_WATER`` addresses and ``IDLE_S``
seconds. So a node whose pods come and go does not alternate between the two.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Collection, Iterable

from cnf.attach.node_network.network import NodeNetwork
from fleetboard.model.addresses import NODE_BLOCK_PREFIX, Address, Network

LOW_WATER = 16
"""A node with fewer free addresses asks for a block: as many pods may start while the leader allocates it."""
HIGH_WATER = 32
"""A block is returned only when at least this many addresses are free without it."""
IDLE_S = 120.0
"""How long a block must have been empty, from the end of its last address's quarantine."""

_SIZE = 1 << (32 - NODE_BLOCK_PREFIX[4])


def wanted_blocks(*, held: int, free: int, waiting: int = 0) -> int:
    """Return how many blocks a node wants that allocates from ``held`` blocks; ``waiting`` ADDs found none free."""
    missing = LOW_WATER + waiting - free
    return held + max(0, -(-missing // _SIZE))


def held_blocks(network: NodeNetwork | None, addresses: Collection[Address]) -> tuple[Network, ...]:
    """Return the node's active blocks in their order, and then the other blocks that ``addresses`` are in.

    The API may have lost the latter. Without ``network``, the addresses still show which block can't be the node's
    first one: there the first address is the node's own, and no pod has it.
    """
    own = network.blocks if network is not None else ()
    lost = {
        ipaddress.ip_network((address, NODE_BLOCK_PREFIX[address.version]), strict=False)
        for address in addresses
        if not any(address in block for block in own)
    }
    others = sorted(lost, key=lambda block: (block.network_address in addresses, block.version, block))
    return (*(network.active_blocks if network is not None else ()), *others)


class Surplus:
    """Chooses the blocks that have been empty for long enough. Not thread-safe."""

    def __init__(self, *, idle_s: float = IDLE_S, clock: Callable[[], float] = time.monotonic) -> None:
        """A block counts as empty from the first ``choose`` that finds it so."""
        self._idle_s = idle_s
        self._clock = clock
        self._since: dict[Network, float] = {}

    def choose(
        self, blocks: Iterable[Network], *, idle: Iterable[Network], free: Callable[[int], int]
    ) -> tuple[Network, ...]:
        """Return the blocks that can be returned: the last ones first, never the first of a family.

        ``blocks`` are the active blocks in their order, ``idle`` those of them that are empty now, and ``free`` counts
        the free addresses of a family.
        """
        now = self._clock()
        self._since = {block: self._since.get(block, now) for block in idle}
        chosen: list[Network] = []
        for version in (4, 6):
            left = free(version)
            for block in [block for block in blocks if block.version == version][:0:-1]:
                is_due = block in self._since and now - self._since[block] >= self._idle_s
                if is_due and left - block.num_addresses >= HIGH_WATER:
                    chosen.append(block)
                    left -= block.num_addresses
        return tuple(chosen)
