"""No text uses words that readers stumble over: the list says what to write for each.

The test reads pages, the charts' comments, our own CRDs' descriptions, the scripts, every module's docstrings and
comments, the product's messages (every string that has a blank in it: log lines, conditions, errors, what the command
prints), the messages of asserts, and the names of functions and classes.
"""

from __future__ import annotations

import ast
import pathlib
import re

import pytest
import repository
from repository import ROOT, Hit, Text, expect_none

# What not to write, as a pattern, and what to write for it.
INSTEAD = {
    r"anew": "again, or new",
    r"of ours": "our",
    r"that is (?-i:none)": "invalid, or what it is",
    r"that are (?-i:none)": "invalid, or what they are",
    r"shall": "must, or will",
    r"be it": "whether, or or",
    r"as good as": "almost",
    r"whoever": "a noun",
    r"the own": "its, or whose it is",
    r"dearer": "costs more",
    r"beforehand": "before, or in advance",
    r"so (?:long|many|much)(?![^.;:]* that\b)": "this long, how many, or the number",
    r"(?<!there)\sis (?-i:none)": "is invalid, or what it is",
}
# What not to write in names, where "_" is read as a blank.
INSTEAD_IN_NAMES = INSTEAD | {r"told": "reported, or what is returned", r"heard": "received"}
CHARTS = ROOT / "manifests/charts"
# Upstream's definitions stay as they are, letter for letter.
OWN_CRDS = sorted((ROOT / "manifests/crds").glob("fleetboard.io_*.yaml"))
PRODUCT = repository.python(product=True)
# This module holds the words themselves.
MODULES = [path for path in repository.python(product=False) if path != pathlib.Path(__file__)]


def read_messages() -> list[Text]:
    texts = [text for path in PRODUCT for text in repository.strings(path) if " " in text.text]
    documented = {(text.path, text.line) for path in PRODUCT for text in repository.docstrings(path)}
    return [text for text in texts if (text.path, text.line) not in documented]


def read_assertions() -> list[Text]:
    """Return the strings in the messages of asserts."""
    return [
        Text(path, part.lineno, part.value)
        for path in MODULES
        for node in ast.walk(repository.tree(path))
        if isinstance(node, ast.Assert) and node.msg
        for part in ast.walk(node.msg)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]


def read_names() -> list[Text]:
    """Return the names of functions and classes, as words."""
    return [
        Text(path, node.lineno, node.name.replace("_", " "))
        for path in MODULES
        for node in ast.walk(repository.tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]


def whole(paths: list[pathlib.Path]) -> list[Text]:
    return [Text(path, 1, path.read_text()) for path in paths]


READ = {
    "pages": whole(repository.pages()),
    "charts": whole([path for path in repository.manifests() if path.is_relative_to(CHARTS)]),
    "crds": whole(OWN_CRDS),
    "docstrings": [text for path in MODULES for text in repository.docstrings(path)],
    "comments": [text for path in MODULES for text in repository.comments(path)],
    "messages": read_messages(),
    "assertions": read_assertions(),
    "names": read_names(),
    "scripts": whole(repository.shell()),
}
CASES = [(kind, words) for kind in READ for words in (INSTEAD_IN_NAMES if kind == "names" else INSTEAD)]


@pytest.mark.parametrize("kind", READ)
def test_every_kind_of_text_is_found(kind: str) -> None:
    assert READ[kind]


@pytest.mark.parametrize(("kind", "words"), CASES)
def test_no_text_uses_words_that_readers_stumble_over(kind: str, words: str) -> None:
    # A line may end between two words, and a comment's next one begins with its sign.
    pattern = re.compile(r"\b" + words.replace(" ", r"(?:\s+(?:[#*]\s+)?)") + r"(?!\w)", re.I)
    hits = [hit for text in READ[kind] for hit in text.search(pattern)]
    expect_none([Hit(hit.path, hit.line, f'"{hit.text.strip()}": write {INSTEAD_IN_NAMES[words]}') for hit in hits])
