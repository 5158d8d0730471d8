"""The table of requirements names tests that there are, and every numbered test is in it."""

from __future__ import annotations

import pathlib
import re

import pytest

TESTS = pathlib.Path(__file__).parents[2]
FOLDERS = ("unit", "e2e")
ROWS = dict(re.findall(r"^\| (\d+) \| .*? \| (.*?) ?\|$", (TESTS / "README.md").read_text(), re.M))


def files_with(number: str) -> set[str]:
    """Return the files that hold a test named by that number."""
    return {
        str(path.relative_to(TESTS / folder))
        for folder in FOLDERS
        for path in (TESTS / folder).rglob("test_*.py")
        if re.search(rf"^def test\w*_mcs{number}_", path.read_text(), re.M)
    }


def test_every_requirement_has_a_row() -> None:
    assert list(ROWS) == [str(number) for number in range(1, 42)]


@pytest.mark.parametrize("number", [str(number) for number in range(1, 42)])
def test_a_requirement_is_shown_by_just_the_files_of_its_row(number: str) -> None:
    row = ROWS[number]
    unit, _, e2e = row.partition("; e2e: ")
    assert set(re.findall(r"`([\w/]*test_\w+\.py)`", unit)) == {
        name for name in files_with(number) if (TESTS / "unit" / name).exists()
    }
    assert {name for name in files_with(number) if (TESTS / "e2e" / name).exists()} <= set(
        re.findall(r"`([\w/]*test_\w+\.py)`", e2e)
    )
    assert unit, "shown by nothing"


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`([\w/]*test_\w+\.py)`", (TESTS / "README.md").read_text()))
    assert not [name for name in named if not any((TESTS / folder / name).exists() for folder in FOLDERS)]
