"""What the kernel must hold: every virtual address and port of the clusterset with the endpoints behind it.

A VipTable is a value without reference to API objects, so comparing two tables shows exactly which elements
have to change.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from fleetboard.model.addresses import Address

Protocol = Literal["tcp", "udp", "sctp"]

PROTOCOLS: Mapping[str, Protocol] = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
"""nft's name of each protocol, by the API's."""


class Frontend(NamedTuple):
    """A virtual address and port that clients connect to."""

    address: Address
    protocol: Protocol
    port: int


class BackendAddress(NamedTuple):
    """A fleet address and port that answers for a frontend."""

    address: Address
    port: int


class ExportedPort(NamedTuple):
    """A port of a pod of this cluster that other clusters may reach."""

    address: Address
    protocol: Protocol
    port: int


@dataclasses.dataclass(frozen=True, slots=True)
class Backend:
    """What answers for a frontend.

    Attributes:
        targets: Sorted, each once; empty to reject connections.
        sticky: Whether a client address always gets the same target (session affinity ClientIP).
    """

    targets: tuple[BackendAddress, ...]
    sticky: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class VipTable:
    """What one node's kernel must hold: for one service, or for many combined.

    Attributes:
        backends: What answers, by frontend; a headless service has none.
        exported: Ports of this cluster's own pods that it exports.
        hairpin: Endpoints on this node, which may be their own clients.
        dropped: How many endpoints lie outside their source cluster's blocks, by cluster.
    """

    backends: Mapping[Frontend, Backend] = dataclasses.field(default_factory=dict)
    exported: frozenset[ExportedPort] = frozenset()
    hairpin: frozenset[Address] = frozenset()
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)


Shares = Mapping[str, VipTable]
"""Each service's part of the table, by the service's key. A share is replaced, never changed."""

EMPTY = VipTable()


def combine(shares: Shares) -> VipTable:
    """Combine services into one table.

    The hub claims a virtual address for one service. If two services name the same one, the first by key keeps it: the
    kernel would refuse a map with two answers for one key, and every other service with it.
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

    The cost is that of the replaced shares, and one comparison for each of the others.
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
    """Leave out the elements of sets that ``others`` have too."""
    exported, hairpin = set(table.exported), set(table.hairpin)
    for other in others:
        exported -= other.exported
        hairpin -= other.hairpin
    return dataclasses.replace(table, exported=frozenset(exported), hairpin=frozenset(hairpin))
