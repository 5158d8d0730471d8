"""What hack/conformance prints of the suite's report, and its exit code."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import conformance_report as report
import pytest


def make_spec(text: str, state: str = "passed", *, label: str = "Required", kind: str = "It") -> dict[str, Any]:
    """Make a spec as Ginkgo writes it, with its null for labels that aren't there."""
    return {
        "ContainerHierarchyTexts": ["", "Connectivity to"],
        "ContainerHierarchyLabels": [None, [label]],
        "LeafNodeType": kind,
        "LeafNodeLabels": None,
        "LeafNodeText": text,
        "State": state,
    }


def run(folder: pathlib.Path, *specs: dict[str, Any]) -> int:
    """Report on a suite of these specs."""
    file = folder / "specs.json"
    file.write_text(json.dumps([{"SuiteDescription": "conformance", "SpecReports": specs}]))
    return report.main(str(file))


def test_each_spec_has_a_line_and_each_kind_a_sum(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    required, optional = make_spec("a service"), make_spec("its name", label="Optional")
    assert run(tmp_path, make_spec("", kind="BeforeSuite"), required, optional) == 0
    assert capsys.readouterr().out.splitlines() == [
        "passed   required Connectivity to a service",
        "passed   optional Connectivity to its name",
        "conformance: required: 1 of 1 passed",
        "conformance: optional: 1 of 1 passed",
    ]


def test_what_was_not_run_is_counted_alone(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, make_spec("a service"), make_spec("its name", "skipped", label="Optional")) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "conformance: required: 1 of 1 passed",
        "conformance: optional: 0 of 0 passed",
        "conformance: 1 were not run",
    ]


def test_the_one_that_cannot_pass_is_explained(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, make_spec(report.CANT, "failed", label="Optional")) == 0
    line, why, *sums = capsys.readouterr().out.splitlines()
    assert line == f"can't    optional Connectivity to {report.CANT}"
    assert why.endswith(report.WHY)
    assert sums[-1] == "conformance: optional: 0 of 1 passed"


@pytest.mark.parametrize("state", ["failed", "panicked", "timedout", "interrupted", "aborted", "pending"])
def test_another_that_did_not_pass_is_a_failure(tmp_path: pathlib.Path, state: str) -> None:
    assert run(tmp_path, make_spec("a service"), make_spec("its name", state)) == 1


def test_a_suite_that_ran_nothing_is_a_failure(tmp_path: pathlib.Path) -> None:
    assert run(tmp_path) == 1
    assert run(tmp_path, make_spec("a service", "skipped")) == 1
