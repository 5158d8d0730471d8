"""What the kernel is to hold: every clusterset virtual address and port with the endpoints behind it.

One invariant: a VipTable is a value without reference to API objects, so two tables say exactly which elements have to
change.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from fleetboard.model.addresses import Address

Protocol = Literal["tcp", "udp", "sctp"]

PROTOCOLS: Mapping[str, Protocol] = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
"""Protocols as the API spells them, to what nft calls them."""


class Frontend(NamedTuple):
    """A virtual address and port that clients connect to."""

    address: Address
    protocol: Protocol
    port: int


class BackendAddress(NamedTuple):
    """A fleet address and target port that answers."""

    address: Address
    port: int


class ExportedPort(NamedTuple):
    """A port of a pod of this cluster that other clusters may reach."""

    address: Address
    protocol: Protocol
    port: int


@dataclasses.dataclass(frozen=True, slots=True)
class Backend:
    """Who answers for a frontend.

    Attributes:
        targets: Sorted, each once; empty when connections are to be refused.
        sticky: Whether one client address always gets one target (session affinity ClientIP).
    """

    targets: tuple[BackendAddress, ...]
    sticky: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class VipTable:
    """What one node's kernel is to hold: for one service, or for many combined.

    Attributes:
        backends: By frontend; a headless service has none.
        exported: Ports of this cluster's own pods that exports name.
        hairpin: Endpoints on this node, which may be clients of themselves.
        dropped: Endpoints outside their source cluster's blocks, by that cluster.
    """

    backends: Mapping[Frontend, Backend] = dataclasses.field(default_factory=dict)
    exported: frozenset[ExportedPort] = frozenset()
    hairpin: frozenset[Address] = frozenset()
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)


Shares = Mapping[str, VipTable]
"""Each service's part of the table, by the service's key. A share is replaced by another, never changed."""

EMPTY = VipTable()


def combine(shares: Shares) -> VipTable:
    """Combine services into one table.

    The hub claims a virtual address for one service alone. Should two name the same all the same, the first by key
    keeps it: a map with two answers for one key would be refused by the kernel, and every other service with it.
    """
    backends: dict[Frontend, Backend] = {}
    dropped: Counter[str] = Counter()
    for key in sorted(shares, reverse=True):
        backends.update(shares[key].backends)
        dropped.update(shares[key].dropped)
    return VipTable(
        backends=backends,
        exported=frozenset[ExportedPort]().union(*(share.exported for share in shares.values())),
        hairpin=frozenset[Address]().union(*(share.hairpin for share in shares.values())),
        dropped=dict(dropped),
    )


def difference(old: Shares, new: Shares) -> tuple[VipTable, VipTable]:
    """Return parts of ``combine(old)`` and of ``combine(new)`` that hold everything in which the two differ.

    They cost what the shares that were replaced cost, and a glance at each of the others.
    """
    changed = {key for key in old.keys() | new.keys() if old.get(key) is not new.get(key)}
    if not changed:
        return EMPTY, EMPTY
    before, after = _some(old, changed), _some(new, changed)
    frontends = before.backends.keys() | after.backends.keys()
    exported, hairpin = before.exported | after.exported, before.hairpin | after.hairpin
    stays: list[VipTable] = []
    rivals = set()
    for key, share in new.items():
        if key in changed:
            continue
        if not share.backends.keys().isdisjoint(frontends):
            rivals.add(key)
        if not (exported.isdisjoint(share.exported) and hairpin.isdisjoint(share.hairpin)):
            stays.append(share)
    if rivals:
        before, after = _some(old, changed | rivals), _some(new, changed | rivals)
    return _without(before, stays), _without(after, stays)


def _some(shares: Shares, keys: Iterable[str]) -> VipTable:
    return combine({key: shares[key] for key in keys if key in shares})


def _without(table: VipTable, others: Iterable[VipTable]) -> VipTable:
    """Leave out the elements of sets that ``others`` have as well."""
    exported, hairpin = set(table.exported), set(table.hairpin)
    for other in others:
        exported -= other.exported
        hairpin -= other.hairpin
    return dataclasses.replace(table, exported=frozenset(exported), hairpin=frozenset(hairpin))
