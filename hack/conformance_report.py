"""Prints what the conformance suite's report holds: one line a spec, and the sums.

Usage: conformance_report.py SPECS.JSON. The exit code is 0 when every spec that ran passed, except the one that can't.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from typing import Any

CANT = "headless service should return the ready endpoint addresses of all the backing pods"
WHY = "it wants the pods' primary addresses, which other clusters can't reach; the answer is their fleet addresses"


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """One spec of the suite, as Ginkgo reports it."""

    text: str
    labels: frozenset[str]
    state: str

    @property
    def result(self) -> str:
        """Its state, or ``can't`` where it fails as it must."""
        return "can't" if self.state == "failed" and CANT in self.text else self.state

    @property
    def kind(self) -> str:
        """Whether it is required."""
        return "required" if "Required" in self.labels else "optional"


def read_specs(file: pathlib.Path) -> list[Spec]:
    """Read the specs of a report in Ginkgo's JSON, without those that only prepare or clean up."""
    suites = json.loads(file.read_text(encoding="utf-8"))
    return [_parse(one) for suite in suites for one in suite["SpecReports"] if one["LeafNodeType"] == "It"]


def _parse(report: dict[str, Any]) -> Spec:
    # Ginkgo writes null for a list that is empty.
    texts = [*(report["ContainerHierarchyTexts"] or ()), report["LeafNodeText"]]
    groups = [*(report["ContainerHierarchyLabels"] or ()), report["LeafNodeLabels"]]
    return Spec(
        text=" ".join(text for text in texts if text),
        labels=frozenset(label for group in groups for label in group or ()),
        state=report["State"],
    )


def render(specs: list[Spec]) -> list[str]:
    """Return the lines to print."""
    ran = [spec for spec in specs if spec.state != "skipped"]
    lines = []
    for spec in ran:
        lines.append(f"{spec.result:8} {spec.kind:8} {spec.text}")
        if spec.result == "can't":
            lines.append(f"{'':17} {WHY}")
    for label in ("Required", "Optional"):
        labelled = [spec for spec in ran if label in spec.labels]
        passed = sum(spec.state == "passed" for spec in labelled)
        lines.append(f"conformance: {label.lower()}: {passed} of {len(labelled)} passed")
    if len(ran) < len(specs):
        lines.append(f"conformance: {len(specs) - len(ran)} were not run")
    return lines


def all_well(specs: list[Spec]) -> bool:
    """Tell whether any spec ran, and none failed that could pass."""
    results = {spec.result for spec in specs} - {"skipped"}
    return bool(results) and results <= {"passed", "can't"}


def main(file: str) -> int:
    """Print a report and return the exit code."""
    specs = read_specs(pathlib.Path(file))
    print("\n".join(render(specs)))
    return 0 if all_well(specs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
