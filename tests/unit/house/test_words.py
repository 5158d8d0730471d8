"""Words that readers stumble over stand nowhere: the list says what to write for each.

Read are pages, the charts' comments, our own CRDs' descriptions, the product's docstrings, comments and messages (every
string that has a blank in it: log lines, conditions, errors, what the command prints), and the scripts.
"""

from __future__ import annotations

import pathlib
import re

import pytest
import repository
from repository import ROOT, Hit, Text, expect_none

# What not to write, as a pattern, and what to write for it.
INSTEAD = {
    r"anew": "again, or new",
    r"of ours": "our",
    r"that is none": "invalid, or what it is",
    r"that are none": "invalid, or what they are",
    r"shall": "must, or will",
    r"be it": "whether, or or",
    r"as good as": "almost",
    r"whoever": "a noun",
}
CHARTS = ROOT / "manifests/charts"
# Upstream's definitions stay as they are, letter for letter.
OWN_CRDS = sorted((ROOT / "manifests/crds").glob("fleetboard.io_*.yaml"))
MODULES = repository.python(product=True)


def read_messages() -> list[Text]:
    found = [text for path in MODULES for text in repository.strings(path) if " " in text.text]
    said = {(text.path, text.line) for path in MODULES for text in repository.docstrings(path)}
    return [text for text in found if (text.path, text.line) not in said]


def whole(paths: list[pathlib.Path]) -> list[Text]:
    return [Text(path, 1, path.read_text()) for path in paths]


READ = {
    "pages": whole(repository.pages()),
    "charts": whole([path for path in repository.manifests() if path.is_relative_to(CHARTS)]),
    "crds": whole(OWN_CRDS),
    "docstrings": [text for path in MODULES for text in repository.docstrings(path)],
    "comments": [text for path in MODULES for text in repository.comments(path)],
    "messages": read_messages(),
    "scripts": whole(repository.shell()),
}


@pytest.mark.parametrize("kind", READ)
def test_every_kind_of_text_is_found(kind: str) -> None:
    assert READ[kind]


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("words", INSTEAD)
def test_what_readers_stumble_over_is_written_nowhere(words: str, kind: str) -> None:
    # A line may end between two words, and a comment's next one begins with its sign.
    pattern = re.compile(r"\b" + words.replace(" ", r"(?:\s+(?:[#*]\s+)?)") + r"\b", re.I)
    found = [hit for text in READ[kind] for hit in text.search(pattern)]
    expect_none([Hit(hit.path, hit.line, f'"{words}": write {INSTEAD[words]}') for hit in found])
