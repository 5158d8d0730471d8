"""When to make the hub's peer anew.

Pure. A hub that restarted does not know the old session, and WireGuard asks for a new one only after 15 s without an
answer; a peer removed and added again asks at once (DESIGN.md section 5). One invariant: a hub that answered a
handshake since the last time is not asked again by this, however many probes fail: then the fault lies elsewhere.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

LOST = 5
"""Probes lost in a row: a second without an answer."""
LEAST_S, MOST_S = 1.0, 10.0
SETTLE_S = 15.0
"""With a handshake since the last revival: as long as WireGuard itself would take."""


@dataclasses.dataclass(frozen=True, slots=True)
class Revivals:
    """What was done about one peer: when last (monotonic), and how often since it was last alive."""

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
    """Tell whether the peer is to be made anew now; ``lost`` is the count of probes lost in a row."""
    if lost < LOST:
        return False
    since = now - revivals.at
    answered = handshake_age_s is not None and handshake_age_s < since
    if answered and revivals.count:
        return since >= SETTLE_S
    if not revivals.count:
        return True
    return since >= min(MOST_S, LEAST_S * 1.5 ** (revivals.count - 1)) * jitter(0.8, 1.2)


def after(revivals: Revivals, *, now: float) -> Revivals:
    """Return the record with one more revival."""
    return Revivals(now, revivals.count + 1)
