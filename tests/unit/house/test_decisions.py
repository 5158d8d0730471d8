"""``docs/README.md`` lists every page, and every decision record under its own title."""

from __future__ import annotations

import pathlib
import re

import pytest
from repository import ROOT

DOCS = ROOT / "docs"
LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)")
LISTED = {target: text for text, target in LINK.findall((DOCS / "README.md").read_text())}
RECORDS = sorted((DOCS / "decisions").glob("*.md"))
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.name != "README.md" and path not in RECORDS)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_a_decision_is_listed_by_its_title(record: pathlib.Path) -> None:
    title = record.read_text().splitlines()[0].removeprefix("# ")
    assert LISTED.get(str(record.relative_to(DOCS))) == title


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = [int(record.name.partition("-")[0]) for record in RECORDS]
    assert numbers == list(range(1, len(numbers) + 1))
    titled = [re.match(r"# (\d+)\. \S", record.read_text()) for record in RECORDS]
    assert [int(match[1]) for match in titled if match] == numbers


@pytest.mark.parametrize("page", [str(page.relative_to(DOCS)) for page in PAGES])
def test_a_page_is_listed(page: str) -> None:
    assert page in LISTED
