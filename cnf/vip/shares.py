"""Keeps every service's share of the table, and plans only the services that changed.

With 10 000 services a plan of all takes half a second; one endpoint's change concerns one service. Invariant: a share
stays the same object until its content changes, so comparing shares by identity misses nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from cnf.vip import plan
from cnf.vip.table import Shares, VipTable
from fleetboard.model.core import EndpointSlice
from fleetboard.model.fleet import FleetService

T = TypeVar("T")


class Planner:
    """Plans shares from the last version of each object. Not thread-safe."""

    def __init__(self) -> None:
        self._services = _ServiceMembers(plan.service_key)
        self._slices = _ServiceMembers(plan.slice_key)
        self._concerned: set[str] = set()
        self._view: plan.ClustersetView | None = None
        self._shares: Shares = {}

    def put_service(self, name: str, service: FleetService | None) -> None:
        """Put the FleetService of that object name, None when it is gone."""
        self._concerned.update(self._services.put(name, service))

    def put_slice(self, name: str, endpoint_slice: EndpointSlice | None) -> None:
        """Put the EndpointSlice of that object name, None when it is gone; a slice that isn't imported is ignored."""
        self._concerned.update(self._slices.put(name, endpoint_slice))

    def shares(self, view: plan.ClustersetView) -> Shares:
        """Plan every service's share as seen in ``view``; a view that differs from the last one plans all again."""
        concerned = self._concerned if view == self._view else {*self._services.keys, *self._slices.keys, *self._shares}
        shares = dict(self._shares)
        for key in concerned:
            share = self._plan(key, view)
            if share is None:
                shares.pop(key, None)
            elif shares.get(key) != share:
                shares[key] = share
        self._shares, self._view, self._concerned = shares, view, set()
        return shares

    def _plan(self, key: str, view: plan.ClustersetView) -> VipTable | None:
        services, slices = self._services.members(key), self._slices.members(key)
        if not services and not slices:
            return None
        return plan.plan_service(next(iter(services), None), slices, view)


def count_dropped(shares: Shares) -> dict[str, int]:
    """Sum up the endpoints outside their cluster's blocks, by cluster."""
    dropped: Counter[str] = Counter()
    for share in shares.values():
        if share.dropped:
            dropped.update(share.dropped)
    return dict(dropped)


class _ServiceMembers(Generic[T]):
    """Objects by the service that they belong to."""

    def __init__(self, key_of: Callable[[T], str | None]) -> None:
        self._key_of = key_of
        self._key_by_name: dict[str, str] = {}
        self._members: defaultdict[str, dict[str, T]] = defaultdict(dict)

    @property
    def keys(self) -> Iterable[str]:
        return self._members.keys()

    def members(self, key: str) -> list[T]:
        members = self._members.get(key)
        return list(members.values()) if members else []

    def put(self, name: str, member: T | None) -> set[str]:
        """Replace the object of that name; return the keys of the services that this concerns."""
        key = None if member is None else self._key_of(member)
        before = self._key_by_name.pop(name, None)
        if before is not None and before != key:
            del self._members[before][name]
            if not self._members[before]:
                del self._members[before]
        if member is not None and key is not None:
            self._key_by_name[name] = key
            self._members[key][name] = member
        return {concerned for concerned in (before, key) if concerned is not None}
