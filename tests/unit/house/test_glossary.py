"""The glossary's words are in order, few, and its names are those of the code."""

from __future__ import annotations

import ast
import functools
import re

import pytest
import repository
import yaml
from repository import ROOT

MOST_WORDS = 40
GLOSSARY = ROOT / "docs/glossary.md"
ROW = re.compile(r"^\|([^|]*)\|([^|]*)\|([^|]*)\|\s*$", re.M)


def read_rows() -> list[tuple[str, str, str]]:
    """Return word, meaning and names of each row, without the table's head."""
    text = GLOSSARY.read_text() if GLOSSARY.exists() else ""
    rows = [(match[1].strip(), match[2].strip(), match[3].strip()) for match in ROW.finditer(text)]
    return [row for row in rows if row[0] != "word" and not set(row[0]) <= set(":- ")]


ROWS = read_rows()
NAMES = [name for _, _, names in ROWS for name in re.findall(r"`([^`]+)`", names)]


@functools.cache
def defined_names() -> frozenset[str]:
    """Return the names of modules, of what they define, and of the kinds of the CRDs."""
    found: set[str] = set()
    for path in repository.python(product=True):
        found.update(repository.module_name(path).split("."))
        for node in ast.walk(repository.tree(path)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.id if isinstance(node, ast.Name) else node.attr)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
    crds = [yaml.safe_load(path.read_text()) for path in (ROOT / "manifests/crds").glob("*.yaml")]
    return frozenset(found | {crd["spec"]["names"]["kind"] for crd in crds})


def test_there_is_a_glossary_of_few_words() -> None:
    assert GLOSSARY.exists()
    assert 0 < len(ROWS) <= MOST_WORDS


def test_words_are_in_alphabetical_order() -> None:
    words = [re.sub(r"[`*]", "", word).casefold() for word, _, _ in ROWS]
    assert words == sorted(words)
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_glossary_is_in_the_code(name: str) -> None:
    parts = name.removesuffix("()").split(".")
    assert set(parts) <= defined_names() or (ROOT / name).exists()


@pytest.mark.parametrize("row", ROWS, ids=[word for word, _, _ in ROWS])
def test_a_row_has_a_meaning(row: tuple[str, str, str]) -> None:
    assert all(row[:2])
