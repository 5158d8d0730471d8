"""Decides when to revive the relay's peer: to remove it and add it again.

Pure. A relay that restarted does not know the old session, and WireGuard asks for a new one only after 15 s without an
answer. A peer that was removed and added again asks at once (docs/design.md section 5). Invariant: a relay that
answered a handshake since the last revival is left alone for ``SETTLE_S``, however many probes fail, because then the
fault lies elsewhere.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

REVIVE_AFTER_LOST = 5
"""Probes lost in a row: one second without an answer."""
RETRY_MIN_S, RETRY_MAX_S = 1.0, 10.0
SETTLE_S = 15.0
"""Pause after a revival that a handshake answered: as long as WireGuard itself would take."""


@dataclasses.dataclass(frozen=True, slots=True)
class Revivals:
    """The revivals of one peer since it was last alive: the time of the last one (monotonic), and their count."""

    at: float = float("-inf")
    count: int = 0


def is_due(
    revivals: Revivals,
    *,
    lost: int,
    handshake_age_s: float | None,
    now: float,
    jitter: Callable[[float, float], float] = random.uniform,
) -> bool:
    """Return whether to revive the peer now; ``lost`` is the count of probes lost in a row."""
    if lost < REVIVE_AFTER_LOST:
        return False
    since = now - revivals.at
    answered = handshake_age_s is not None and handshake_age_s < since
    if answered and revivals.count:
        return since >= SETTLE_S
    if not revivals.count:
        return True
    return since >= min(RETRY_MAX_S, RETRY_MIN_S * 1.5 ** (revivals.count - 1)) * jitter(0.8, 1.2)


def record_revival(revivals: Revivals, *, now: float) -> Revivals:
    """Return the record with one more revival, which happened ``now``."""
    return Revivals(now, revivals.count + 1)
