"""What the kernel is to hold: every clusterset virtual address and port with the endpoints behind it.

One invariant: a VipTable is a value without reference to API objects, so two tables compared by ``==`` say exactly
which maps have to change.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
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


class Target(NamedTuple):
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

    targets: tuple[Target, ...]
    sticky: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceVips:
    """One service's share of the table.

    Attributes:
        backends: By frontend; a headless service has none.
        exported: Ports of this cluster's own pods that the service's export names.
        hairpin: Endpoints on this node, which may be clients of themselves.
        dropped: Endpoints outside their source cluster's blocks, by that cluster.
    """

    backends: Mapping[Frontend, Backend] = dataclasses.field(default_factory=dict)
    exported: frozenset[ExportedPort] = frozenset()
    hairpin: frozenset[Address] = frozenset()
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class VipTable:
    """All services of the clusterset as one node's kernel is to hold them."""

    backends: Mapping[Frontend, Backend] = dataclasses.field(default_factory=dict)
    exported: frozenset[ExportedPort] = frozenset()
    hairpin: frozenset[Address] = frozenset()
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)


EMPTY = VipTable()


def combine(services: Mapping[str, ServiceVips]) -> VipTable:
    """Combine services, by key, into one table.

    The hub claims a virtual address for one service alone. Should two name the same all the same, the first by key
    keeps it: a map with two answers for one key would be refused by the kernel, and every other service with it.
    """
    backends: dict[Frontend, Backend] = {}
    dropped: Counter[str] = Counter()
    for key in sorted(services, reverse=True):
        backends.update(services[key].backends)
        dropped.update(services[key].dropped)
    return VipTable(
        backends=backends,
        exported=frozenset[ExportedPort]().union(*(service.exported for service in services.values())),
        hairpin=frozenset[Address]().union(*(service.hairpin for service in services.values())),
        dropped=dict(dropped),
    )
