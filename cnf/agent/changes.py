"""Tells changes that matter from those that don't: of a cluster's nodes every one hears what any other writes.

A node counts its addresses every half minute; with 200 nodes each of those would be a plan on each. One invariant: an
object that differs in anything a plan reads is never taken for the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from fleetboard.model import fleet

T = TypeVar("T")

COUNTS: Mapping[str, Any] = {"addresses_used": 0, "addresses_free": 0, "version": "", "conditions": []}
"""Fields of a FleetNode's status that only people and metrics read."""


class Notice(Generic[T]):
    """Remembers of each object what matters; of one thread."""

    def __init__(self, essence: Callable[[T], object]) -> None:
        self._essence = essence
        self._seen: dict[Hashable, object] = {}

    def differs(self, key: str, found: T | None) -> bool:
        """Say whether the object of that key, None when it is gone, differs from last time, and remember it."""
        before = self._seen.pop(key, None)
        if found is None:
            return before is not None
        self._seen[key] = now = self._essence(found)
        return now != before


def node_essence(node: fleet.FleetNode) -> object:
    """Return what tunnels, blocks and firewall are planned from."""
    meta = node.metadata
    status = msgspec.structs.replace(node.status, **COUNTS)
    return meta.uid, meta.creation_timestamp, meta.deletion_timestamp, node.spec, status


def peer_essence(peer: fleet.Peer) -> object:
    """Return what tunnels, blocks and virtual addresses are planned from."""
    health = None if peer.status.health is None else fleet.PeerHealth(reachable=peer.status.health.reachable)
    return peer.spec, msgspec.structs.replace(peer.status, health=health, conditions=[])
