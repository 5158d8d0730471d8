"""Chooses among the endpoints behind a port: those that may answer, and of those the near ones where a service asks.

internalTrafficPolicy and trafficDistribution are the Service's own (KEP-2086, KEP-4444, KEP-3015). Their "near" is
this node, then the node's zone within this cluster, then this cluster. One invariant: a preference never refuses a
client that any endpoint could serve; the policy Local does, as kube-proxy does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cnf.vip.table import BackendAddress, Protocol
from fleetboard.model import core


class Candidate(NamedTuple):
    """One endpoint address of one slice port that lies where its cluster may be.

    Attributes:
        cluster: That it is of.
        name: Of the port.
        protocol: Of the port.
        target: Where it answers.
        ready: Whether new traffic may go there.
        serving: Whether it answers, though it may be on its way out.
        on_node: Whether it is on this node.
        in_zone: Whether it is of this cluster and in this node's zone, as far as that is known.
        in_cluster: Whether it is of this cluster.
    """

    cluster: str
    name: str
    protocol: Protocol
    target: BackendAddress
    ready: bool = True
    serving: bool = True
    on_node: bool = False
    in_zone: bool = False
    in_cluster: bool = False


_Rings = tuple[Callable[[Candidate], bool], ...]


def _on_node(candidate: Candidate) -> bool:
    return candidate.on_node


def _in_zone(candidate: Candidate) -> bool:
    return candidate.in_zone


def _in_cluster(candidate: Candidate) -> bool:
    return candidate.in_cluster


_RINGS: Mapping[str, _Rings] = {
    core.PREFER_CLOSE: (_in_zone, _in_cluster),
    core.PREFER_SAME_ZONE: (_in_zone, _in_cluster),
    core.PREFER_SAME_NODE: (_on_node, _in_zone, _in_cluster),
}
"""What each trafficDistribution tries before all endpoints."""


def choose(behind: Sequence[Candidate], *, policy: str = "", distribution: str = "") -> list[Candidate]:
    """Return who answers: the ready, else those that still serve while they terminate; and the near ones of them.

    Args:
        behind: Every endpoint of the port.
        policy: The service's internalTrafficPolicy.
        distribution: Its trafficDistribution; one that isn't known prefers nothing.
    """
    allowed = [candidate for candidate in behind if candidate.on_node] if policy == "Local" else behind
    answering = [candidate for candidate in allowed if candidate.ready] or [
        candidate for candidate in allowed if candidate.serving
    ]
    for is_near in _RINGS.get(distribution, ()):
        near = [candidate for candidate in answering if is_near(candidate)]
        if near:
            return near
    return answering
