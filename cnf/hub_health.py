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


def judge(observations: Mapping[str, Observation], *, now: float) -> tuple[dict[str, bool], bool]:
    """Return which members are reachable, for those of which that is known, and whether we are the ones cut off.

    When more than two and more than a fifth of the members fell silent within one window, none of those is judged.
    """
    verdicts: dict[str, bool] = {}
    lost: list[str] = []
    for cluster, seen in observations.items():
        if seen.alive:
            verdicts[cluster] = True
        elif seen.seen and now - seen.seen >= SILENT_S:
            verdicts[cluster] = False
            if now - seen.seen < WINDOW_S:
                lost.append(cluster)
    cut_off = len(lost) > max(2, len(observations) / 5)
    if cut_off:
        for cluster in lost:
            del verdicts[cluster]
    return verdicts, cut_off
