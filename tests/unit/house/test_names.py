"""A name means one thing, and functions and modules stay short."""

from __future__ import annotations

import ast
import collections
import pathlib

import pytest
import repository
from repository import ROOT, Hit, expect_none

MODULES = repository.python(product=True)
LONGEST_MODULE, LONGEST_FUNCTION = 300, 40


def classes() -> dict[str, list[Hit]]:
    """Return every class by its name, nested classes too."""
    found: dict[str, list[Hit]] = collections.defaultdict(list)
    for path in MODULES:
        for node in ast.walk(repository.tree(path)):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(Hit(path, node.lineno, node.name))
    return found


def test_no_class_has_anothers_name() -> None:
    shared = [hit for hits in classes().values() if len(hits) > 1 for hit in hits]
    expect_none([Hit(hit.path, hit.line, f"class {hit.text}") for hit in shared])


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
    """Return what a module imports from the product under another name.

    ``from cnf.netlink import errors as netlink_errors`` is allowed: it puts the package's name before a name that
    several packages have (``errors``, ``plan``).
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
def test_our_modules_are_imported_under_their_own_names(package: str) -> None:
    expect_none([hit for path in MODULES if path.is_relative_to(ROOT / package) for hit in read_aliases(path)])
