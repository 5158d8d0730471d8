"""Samples into figures: percentiles, ratios, the table.

Invariant: a figure is always of samples that were taken by turns with those it is compared to.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence

_SPIN = "import time; end = time.monotonic() + 2\nwhile time.monotonic() < end: pass"


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: what was measured, our figure, and the one it is compared to."""

    what: str
    ours: str
    beside: str = ""
    ratio: float | None = None

    @property
    def shown_ratio(self) -> str:
        return "" if self.ratio is None else f"{self.ratio:.2f}"


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the sample below which ``share`` of all samples are."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def compare(what: str, ours: Sequence[float], theirs: Sequence[float], *, tail: float = 0.9) -> Figure:
    """Compare two sets of milliseconds by their medians."""
    ratio = statistics.median(ours) / statistics.median(theirs)
    return Figure(what, shown(ours, tail=tail), shown(theirs, tail=tail), ratio)


def shown(samples: Sequence[float], *, tail: float = 0.9) -> str:
    """Render median and 90th, or another, percentile of milliseconds."""
    return f"{statistics.median(samples):.1f} / {percentile(samples, tail):.1f} ms"


def warm_up() -> None:
    """Spin every core for two seconds: a core at rest is slow to begin."""
    for spinner in [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(os.cpu_count() or 1)]:
        spinner.wait(timeout=60)


def load() -> str:
    """Return the machine's load averages of 1, 5 and 15 minutes."""
    return " ".join(f"{average:.1f}" for average in os.getloadavg())


def machine() -> str:
    """Return which machine was measured on, and how busy it was."""
    return f"{os.cpu_count()} cores, Linux {platform.release()}, load {load()}"


def save(folder: pathlib.Path, part: str, found: Sequence[Figure], raw: object) -> None:
    """Write the figures of one part, and the samples they were made of."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "figures": [dataclasses.asdict(figure) for figure in found], "samples": raw}
    (folder / f"{part}.json").write_text(json.dumps(content, indent=1) + "\n")


def saved(folder: pathlib.Path, part: str) -> list[Figure]:
    """Return the figures of one part as they were written last."""
    content = json.loads((folder / f"{part}.json").read_text())
    return [Figure(**figure) for figure in content["figures"]]


def render(found: Sequence[Figure]) -> str:
    """Return the table."""
    rows = [("", "fleetboard", "beside", "ratio")]
    rows += [(figure.what, figure.ours, figure.beside, figure.shown_ratio) for figure in found]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0].ljust(sum(widths) + 6)), *lines[1:]])
