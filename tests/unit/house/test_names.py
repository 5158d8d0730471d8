"""A name means one thing, and what has one fits a screen: classes, aliases, lengths of functions and modules."""

from __future__ import annotations

import ast
import collections
import pathlib

import pytest
import repository
from repository import ROOT, Hit, expect_none

MODULES = repository.python(product=True)
LONGEST_MODULE, LONGEST_FUNCTION = 300, 40
# Class names that two modules have, and imports of our own under another name ("cnf.x.y as z"): each with its reason.
SHARED_NAMES: dict[str, str] = {}
ALIASES: dict[str, str] = {}


def classes() -> dict[str, list[Hit]]:
    """Return every class by its name, classes inside of others too."""
    found: dict[str, list[Hit]] = collections.defaultdict(list)
    for path in MODULES:
        for node in ast.walk(repository.tree(path)):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(Hit(path, node.lineno, node.name))
    return found


def test_no_class_has_anothers_name() -> None:
    twice = [hit for name, hits in classes().items() if len(hits) > 1 and name not in SHARED_NAMES for hit in hits]
    expect_none([Hit(hit.path, hit.line, f"class {hit.found}") for hit in twice])


@pytest.mark.parametrize("package", repository.packages())
def test_a_module_is_short(package: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES if path.is_relative_to(ROOT / package)}
    long = [Hit(path, 1, f"{length} lines") for path, length in lengths.items() if length > LONGEST_MODULE]
    expect_none(long)


@pytest.mark.parametrize("package", repository.packages())
def test_a_function_fits_a_screen(package: str) -> None:
    long = [
        Hit(path, node.lineno, f"{node.name}, {length} lines")
        for path in MODULES
        if path.is_relative_to(ROOT / package)
        for node in ast.walk(repository.tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    ]
    expect_none(long)


def read_aliases(path: pathlib.Path) -> list[Hit]:
    """Return what a module imports of the product under another name.

    ``from cnf.netlink import errors as netlink_errors`` is the same name with its package's, and no other: modules that
    are named after what they are in every package (``errors``, ``plan``) can be told apart by it.
    """
    found = []
    for node in ast.walk(repository.tree(path)):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        source = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
        own = source.split(".")[0] in repository.packages()
        for name in node.names:
            own_names = {None, name.name, f"{source.rpartition('.')[2]}_{name.name}"}
            if (own or name.name.split(".")[0] in repository.packages()) and name.asname not in own_names:
                found.append(Hit(path, node.lineno, f"{source}.{name.name} as {name.asname}".lstrip(".")))
    return found


@pytest.mark.parametrize("package", repository.packages())
def test_what_is_ours_is_imported_under_its_own_name(package: str) -> None:
    found = [hit for path in MODULES if path.is_relative_to(ROOT / package) for hit in read_aliases(path)]
    expect_none([hit for hit in found if hit.found not in ALIASES])


def test_every_exception_is_still_one() -> None:
    assert {name for name, hits in classes().items() if len(hits) > 1} >= set(SHARED_NAMES)
    assert {hit.found for path in MODULES for hit in read_aliases(path)} >= set(ALIASES)
