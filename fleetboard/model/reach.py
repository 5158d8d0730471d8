"""Which clusters' endpoints may get traffic, seen from one cluster: the rule of withdrawal (docs/design.md section 6).

The relay's probe says of every member whether it is reachable (``Peer.is_reachable``). A member whose own probe of the
relay gets no answer is isolated: the relay can't inform it. A cluster that the relay calls unreachable, or that is
isolated, is cut off: then the others are out of its reach, whatever the relay says of them. Its own endpoints are never
withdrawn.

Two parts read this, and differ in one row: a virtual address rejects connections that would get no answer, while a
name goes on naming what it named, since a client that has an address may try again and one without can't.

| endpoints are in         | names (``for_names``)                             | addresses (``for_addresses``) |
|--------------------------|---------------------------------------------------|-------------------------------|
| this cluster             | answer                                            | lead there                    |
| a reachable cluster      | answer                                            | lead there                    |
| an unreachable cluster   | leave them out                                    | reject                        |
| another, when cut off    | answer, if reachable and no endpoint here is left | reject                        |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

from fleetboard.model import fleet, names


@dataclasses.dataclass(frozen=True, slots=True)
class Reach:
    """Who is reachable from this cluster.

    Attributes:
        own: Names this cluster has.
        unreachable: Clusters whose data path the relay's probe found dead, this one perhaps among them.
        isolated: Whether this cluster's own probe of the relay gets no answer.
    """

    own: frozenset[str] = frozenset()
    unreachable: frozenset[str] = frozenset()
    isolated: bool = False

    @property
    def cut_off(self) -> bool:
        """Whether no other cluster is within reach."""
        return self.isolated or bool(self.own & self.unreachable)

    @property
    def withdrawn(self) -> frozenset[str]:
        """The other clusters that the relay calls unreachable."""
        return self.unreachable - self.own

    def for_names(self, clusters: Collection[str]) -> frozenset[str]:
        """Return those of the clusters with endpoints that DNS answers with: something rather than nothing."""
        every = frozenset(clusters)
        local = every & self.own
        if self.cut_off and local:
            return local
        return every - self.withdrawn

    def for_addresses(self, clusters: Collection[str]) -> frozenset[str]:
        """Return those of the clusters with endpoints that a virtual address leads to; it rejects without any."""
        every = frozenset(clusters)
        return every & self.own if self.cut_off else every - self.withdrawn


def read(peers: Iterable[fleet.Peer], *, own: Iterable[str], isolated: bool = False) -> Reach:
    """Read who is reachable from the clusterset's peers, this cluster and the hub among them."""
    unreachable = frozenset(peer.metadata.name for peer in peers if not peer.is_reachable)
    return Reach(own=frozenset(own), unreachable=unreachable - {names.HUB}, isolated=isolated)


def is_isolated(nodes: Iterable[fleet.FleetNode]) -> bool:
    """Return whether the relay doesn't answer this cluster's leader, as its FleetNode reports.

    A leader that died goes on reporting what it saw last, under a lower epoch.
    """
    leading = [node.status.leading for node in nodes if node.status.leading is not None]
    last = max(leading, key=lambda seen: seen.epoch, default=fleet.Leading())
    return not last.hub_reachable
