"""Which public key leads each cluster, by the highest epoch known.

Invariant: while a cluster has a session here, its epoch never falls, and one epoch has one leader. An announcement
counts only if it comes from an address that WireGuard ties to the announced key. So no cluster speaks for another, and
no node for another node.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping

from cnf.tunnel.session.wire import Ack, Announcement
from fleetboard.model.addresses import Address


@dataclasses.dataclass(frozen=True, slots=True)
class LeaderEpoch:
    """An epoch with the public key of its leader."""

    epoch: int
    public_key: str


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of an announcement. It has no ``ack`` when its sender may not make it."""

    ack: Ack | None
    new_epoch: LeaderEpoch | None
    """The announced epoch, if it is new."""


def decide(announced: Announcement, sender_key: str | None, highest: LeaderEpoch | None) -> Verdict:
    """Decide on an announcement from the holder of ``sender_key``.

    ``sender_key`` is None when the announcement comes from no session of that cluster.
    """
    if sender_key is None or sender_key != announced.public_key:
        return Verdict(None, None)
    offered = LeaderEpoch(announced.epoch, announced.public_key)
    is_new = highest is None or offered.epoch > highest.epoch
    current = offered if is_new or highest is None else highest
    ack = Ack(announced.nonce, announced.cluster, current.epoch, accepted=current == offered)
    return Verdict(ack, offered if is_new else None)


class HighestEpochs:
    """The highest epoch of each cluster. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._highest: dict[str, LeaderEpoch] = {}
        self._sessions: Mapping[str, Mapping[Address, str]] = {}

    def allow(self, sessions: Mapping[str, Mapping[Address, str]]) -> None:
        """Accept announcements from these sessions only: cluster -> session address -> public key."""
        with self._lock:
            self._sessions = sessions
            self._highest = {cluster: highest for cluster, highest in self._highest.items() if cluster in sessions}

    def observe(self, cluster: str, leader_epoch: LeaderEpoch) -> bool:
        """Raise a cluster's epoch to one that was read elsewhere, as in its report; return whether it is new."""
        with self._lock:
            highest = self._highest.get(cluster)
            if highest is not None and leader_epoch.epoch <= highest.epoch:
                return False
            self._highest[cluster] = leader_epoch
            return True

    def highest(self, cluster: str) -> LeaderEpoch | None:
        """Return the highest known epoch of a cluster."""
        return self._highest.get(cluster)

    def receive(self, announced: Announcement, source: Address) -> Verdict:
        """Decide on an announcement, and keep its epoch if it is new."""
        with self._lock:
            sender_key = self._sessions.get(announced.cluster, {}).get(source)
            verdict = decide(announced, sender_key, self._highest.get(announced.cluster))
            if verdict.new_epoch is not None:
                self._highest[announced.cluster] = verdict.new_epoch
            return verdict
