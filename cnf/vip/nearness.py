"""Chooses among the endpoints behind a port: those that may answer, and the near ones of them if the service asks.

internalTrafficPolicy and trafficDistribution are the Service's own (KEP-2086, KEP-4444, KEP-3015). Near means this
node, then the node's zone within this cluster, then this cluster. Invariant: a preference never refuses a client that
any endpoint could serve; the policy Local does, as kube-proxy does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cnf.vip.table import BackendAddress, Protocol
from fleetboard.model import core


class Candidate(NamedTuple):
    """One believed endpoint address of one slice port.

    Attributes:
        cluster: Source cluster of the endpoint.
        name: Name of the port.
        protocol: Protocol of the port.
        target: Where the endpoint answers.
        ready: Whether new traffic may go there.
        serving: Whether the endpoint answers, though it may be terminating.
        on_node: Whether the endpoint is on this node.
        in_zone: Whether the endpoint is known to be in this cluster and in this node's zone.
        in_cluster: Whether the endpoint is in this cluster.
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
"""Which endpoints each trafficDistribution prefers, in turn, to all endpoints."""


def choose(behind: Sequence[Candidate], *, policy: str = "", distribution: str = "") -> list[Candidate]:
    """Return the endpoints that answer: the ready, else those that serve while they terminate; and of them the near.

    Args:
        behind: Every endpoint of the port.
        policy: The service's internalTrafficPolicy.
        distribution: Its trafficDistribution; an unknown one prefers nothing.
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
