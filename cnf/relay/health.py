"""Decides which members are called unreachable (docs/design.md section 6, "Withdrawal").

Pure. Invariant: a member is withdrawn only if its path carried packets before and has carried none for a second. If so
many members fall silent at once that the relay itself must be cut off, none of them is withdrawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

SILENT_S = 1.0
"""A member whose path carried nothing for this long is unreachable."""
WINDOW_S = 10.0
"""Members that fell silent within it fell silent together."""


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """What the probes of one member's leader show.

    Attributes:
        alive: The prober's state: None before it knows.
        seen: When the last echo arrived, monotonic; 0 for never.
    """

    alive: bool | None
    seen: float


def decide(observations: Mapping[str, Observation], *, now: float) -> tuple[dict[str, bool], bool]:
    """Return (reachability, cut_off).

    The first is, by cluster, whether it is reachable, without clusters of which that is unknown. The second is whether
    the relay itself is cut off.

    The relay is cut off when more than two and more than a fifth of the members fell silent within one window. The
    result then leaves those members out, however long they stay silent.
    """
    reachability = {cluster: True for cluster, observed in observations.items() if observed.alive}
    lost = {
        cluster: observed.seen
        for cluster, observed in observations.items()
        if not observed.alive and observed.seen and now - observed.seen >= SILENT_S
    }
    together = _lost_together(lost, most=max(2, len(observations) / 5))
    return reachability | {cluster: False for cluster in lost if cluster not in together}, bool(together)


def _lost_together(lost: Mapping[str, float], *, most: float) -> frozenset[str]:
    """Return the clusters that fell silent within one window with more than ``most`` in all."""
    together: set[str] = set()
    for began in lost.values():
        window = [cluster for cluster, seen in lost.items() if began <= seen < began + WINDOW_S]
        if len(window) > most:
            together.update(window)
    return frozenset(together)
