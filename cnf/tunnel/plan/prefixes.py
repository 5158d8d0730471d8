"""Which prefixes have an owner, so that no two owners get overlapping ones.

Invariant: the prefixes in a set never overlap. So a new prefix can overlap only with its neighbours in order.
"""

from __future__ import annotations

import bisect

from fleetboard.model.addresses import Network


class PrefixOwners:
    """Prefixes that do not overlap, each with its owner."""

    def __init__(self) -> None:
        self._starts: dict[int, list[int]] = {4: [], 6: []}
        self._entries: dict[int, list[tuple[int, str]]] = {4: [], 6: []}

    def assign(self, network: Network, owner: str) -> str | None:
        """Give ``network`` to ``owner``, or return the owner of a part of it."""
        starts, entries = self._starts[network.version], self._entries[network.version]
        first, last = int(network.network_address), int(network.broadcast_address)
        at = bisect.bisect_right(starts, first)
        if at and entries[at - 1][0] >= first:
            return entries[at - 1][1]
        if at < len(starts) and starts[at] <= last:
            return entries[at][1]
        starts.insert(at, first)
        entries.insert(at, (last, owner))
        return None
