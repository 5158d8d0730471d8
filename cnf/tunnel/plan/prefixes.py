"""Which prefixes are taken, so that no two owners get overlapping ones.

One invariant: the taken prefixes never overlap, so the neighbours of a prefix in order are the only ones it can
overlap with.
"""

from __future__ import annotations

import bisect

from fleetboard.model.addresses import Network


class PrefixOwners:
    """A set of prefixes that do not overlap, each with an owner."""

    def __init__(self) -> None:
        self._starts: dict[int, list[int]] = {4: [], 6: []}
        self._entries: dict[int, list[tuple[int, str]]] = {4: [], 6: []}

    def assign(self, network: Network, owner: str) -> str | None:
        """Give ``network`` to ``owner``, or return who holds a part of it already."""
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
