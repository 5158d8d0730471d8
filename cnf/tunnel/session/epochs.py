"""Which node leads each cluster, by the highest epoch known.

Invariant: a cluster's epoch never falls, and one epoch has one leader. An announcement counts only if it comes from an
address that WireGuard ties to the announced key. So no cluster speaks for another, and no node for another node.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping

from cnf.tunnel.session.wire import Ack, Announcement
from fleetboard.model.addresses import Address


@dataclasses.dataclass(frozen=True, slots=True)
class LeaderClaim:
    """A claim to lead: the epoch and the leader's public key."""

    epoch: int
    public_key: str


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of an announcement. It has no ``ack`` when its sender may not make it."""

    ack: Ack | None
    claim: LeaderClaim | None
    """Set when the announced claim is new."""


def decide(announced: Announcement, sender_key: str | None, highest: LeaderClaim | None) -> Verdict:
    """Decide on an announcement from the holder of ``sender_key``.

    ``sender_key`` is None when the announcement comes from no session of that cluster.
    """
    if sender_key is None or sender_key != announced.public_key:
        return Verdict(None, None)
    offered = LeaderClaim(announced.epoch, announced.public_key)
    is_new = highest is None or offered.epoch > highest.epoch
    current = offered if is_new or highest is None else highest
    ack = Ack(announced.nonce, announced.cluster, current.epoch, accepted=current == offered)
    return Verdict(ack, offered if is_new else None)


class LeaderClaims:
    """The highest claim of each cluster. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[str, LeaderClaim] = {}
        self._sessions: Mapping[str, Mapping[Address, str]] = {}

    def allow(self, sessions: Mapping[str, Mapping[Address, str]]) -> None:
        """Accept announcements from these sessions only: cluster -> session address -> public key."""
        with self._lock:
            self._sessions = sessions
            self._claims = {cluster: claim for cluster, claim in self._claims.items() if cluster in sessions}

    def observe(self, cluster: str, claim: LeaderClaim) -> bool:
        """Raise a cluster's epoch to one that was read elsewhere, as in its report; return whether it is new."""
        with self._lock:
            highest = self._claims.get(cluster)
            if highest is not None and claim.epoch <= highest.epoch:
                return False
            self._claims[cluster] = claim
            return True

    def claim(self, cluster: str) -> LeaderClaim | None:
        """Return the highest claim known of a cluster."""
        return self._claims.get(cluster)

    def receive(self, announced: Announcement, source: Address) -> Verdict:
        """Decide on an announcement and keep its claim if it is new."""
        with self._lock:
            sender_key = self._sessions.get(announced.cluster, {}).get(source)
            verdict = decide(announced, sender_key, self._claims.get(announced.cluster))
            if verdict.claim is not None:
                self._claims[announced.cluster] = verdict.claim
            return verdict
