"""What all verbs of a node's CNI service work on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from cnf.attach.journal import Journal
from cnf.attach.ledger import Ledger
from cnf.attach.locks import KeyedLocks
from cnf.attach.node_network.supply import Supply
from cnf.attach.plumber import Plumber
from cnf.attach.pods import Pods
from cnf.attach.settings import CniSettings
from cnf.netlink.namespace import NetworkNamespace


@dataclasses.dataclass(frozen=True, slots=True)
class NodeResources:
    """The node's records, its kernel and its network. Each is thread-safe."""

    ledger: Ledger
    plumber: Plumber
    pods: Pods
    supply: Supply
    locks: KeyedLocks
    """Held by the calls of one container, by container id."""

    @classmethod
    def build(
        cls,
        settings: CniSettings,
        *,
        node_netns: NetworkNamespace,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> NodeResources:
        """Build them; nothing is read or changed yet."""
        return cls(
            ledger=Ledger(Journal(settings.state_dir / "journal"), node=settings.node, clock=clock, wall=wall),
            plumber=Plumber(node_netns),
            pods=Pods(settings.netns_dir),
            supply=Supply(),
            locks=KeyedLocks(),
        )
