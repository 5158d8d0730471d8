"""Decide which members cnf-hub may call unreachable (DESIGN.md section 6, "Withdrawal").

Pure. One invariant: only a way that carried packets before and carries none for a second withdraws a cluster, and
never so many at once that the hub itself must be the one cut off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

SILENT_S = 1.0
WINDOW_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """What the probes of one member say.

    Attributes:
        alive: As of the prober: None before it knows.
        seen: When the last echo came, monotonic; 0 for never.
    """

    alive: bool | None
    seen: float


def decide(observations: Mapping[str, Observation], *, now: float) -> tuple[dict[str, bool], bool]:
    """Return which members are reachable, for those of which that is known, and whether we are the ones cut off.

    When more than two and more than a fifth of the members fell silent within one window, none of those is judged,
    however long they stay silent.
    """
    reachability = {cluster: True for cluster, seen in observations.items() if seen.alive}
    lost = {
        cluster: seen.seen
        for cluster, seen in observations.items()
        if not seen.alive and seen.seen and now - seen.seen >= SILENT_S
    }
    together = _lost_together(lost, most=max(2, len(observations) / 5))
    return reachability | {cluster: False for cluster in lost if cluster not in together}, bool(together)


def _lost_together(lost: Mapping[str, float], *, most: float) -> frozenset[str]:
    """Return the clusters that fell silent within one window with more than ``most`` in all."""
    found: set[str] = set()
    for began in lost.values():
        window = [cluster for cluster, seen in lost.items() if began <= seen < began + WINDOW_S]
        if len(window) > most:
            found.update(window)
    return frozenset(found)
