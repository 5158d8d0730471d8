"""Who carries each cluster's traffic, by the highest epoch known.

One invariant: a cluster's epoch never falls, and one epoch has one leader. An announcement counts only from an address
that WireGuard ties to the announced key, so no cluster speaks for another, and no node of a cluster for another node.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping

from cnf.tunnel.session.wire import Ack, Announcement
from fleetboard.model.addresses import Address


@dataclasses.dataclass(frozen=True, slots=True)
class LeaderClaim:
    """The highest epoch known of a cluster, and the key of its leader."""

    epoch: int
    public_key: str


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an announcement; no ``ack`` for one that its sender may not make."""

    ack: Ack | None
    claim: LeaderClaim | None
    """Set when it is news."""


def decide(announced: Announcement, sender_key: str | None, known: LeaderClaim | None) -> Verdict:
    """Decide on an announcement from the holder of ``sender_key`` in that cluster (None: none of its sessions)."""
    if sender_key is None or sender_key != announced.public_key:
        return Verdict(None, None)
    offered = LeaderClaim(announced.epoch, announced.public_key)
    fresh = known is None or offered.epoch > known.epoch
    current = offered if fresh or known is None else known
    ack = Ack(announced.nonce, announced.cluster, current.epoch, accepted=current == offered)
    return Verdict(ack, offered if fresh else None)


class LeaderClaims:
    """The claims of all clusters; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[str, LeaderClaim] = {}
        self._sessions: Mapping[str, Mapping[Address, str]] = {}

    def allow(self, sessions: Mapping[str, Mapping[Address, str]]) -> None:
        """Take announcements from these: cluster -> session address -> public key. Replaces what was allowed."""
        with self._lock:
            self._sessions = sessions
            self._claims = {cluster: claim for cluster, claim in self._claims.items() if cluster in sessions}

    def observe(self, cluster: str, claim: LeaderClaim) -> bool:
        """Raise a cluster's epoch to one that was read elsewhere (its report, its Lease); return whether it is news."""
        with self._lock:
            known = self._claims.get(cluster)
            if known is not None and claim.epoch <= known.epoch:
                return False
            self._claims[cluster] = claim
            return True

    def claim(self, cluster: str) -> LeaderClaim | None:
        """Return the highest claim known."""
        return self._claims.get(cluster)

    def receive(self, announced: Announcement, source: Address) -> Verdict:
        """Decide on an announcement and remember it."""
        with self._lock:
            sender_key = self._sessions.get(announced.cluster, {}).get(source)
            verdict = decide(announced, sender_key, self._claims.get(announced.cluster))
            if verdict.claim is not None:
                self._claims[announced.cluster] = verdict.claim
            return verdict
