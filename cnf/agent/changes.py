"""Filters out updates that cannot affect any plan; every node receives every other node's updates.

A node writes its count of addresses every half minute; with 200 nodes each of those would be a plan on each. Invariant:
an object that differs in anything that a plan reads is never taken for the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from fleetboard.model import fleet

T = TypeVar("T")

UNPLANNED_FIELDS: Mapping[str, Any] = {"addresses_used": 0, "addresses_free": 0, "version": "", "conditions": []}
"""Fields of a FleetNode's status that only people read."""


class ChangeFilter(Generic[T]):
    """Remembers of each object what a plan reads. Not thread-safe."""

    def __init__(self, essence: Callable[[T], object]) -> None:
        self._essence = essence
        self._seen: dict[Hashable, object] = {}

    def differs(self, key: str, current: T | None) -> bool:
        """Return whether the object of that key, None when it is gone, differs from last time; remember it."""
        before = self._seen.pop(key, None)
        if current is None:
            return before is not None
        self._seen[key] = now = self._essence(current)
        return now != before


def node_essence(node: fleet.FleetNode) -> object:
    """Return what tunnels, blocks and firewall are planned from."""
    meta = node.metadata
    status = msgspec.structs.replace(node.status, **UNPLANNED_FIELDS)
    return meta.uid, meta.creation_timestamp, meta.deletion_timestamp, node.spec, status


def peer_essence(peer: fleet.Peer) -> object:
    """Return what tunnels, blocks and virtual addresses are planned from."""
    health = None if peer.status.health is None else fleet.PeerHealth(reachable=peer.status.health.reachable)
    return peer.spec, msgspec.structs.replace(peer.status, health=health, conditions=[])
