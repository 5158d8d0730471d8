"""What a comment, a page, a chart or a script cites exists in the repository.

A path is cited from the root, from a folder above the citing file, or from one below its own. One that begins elsewhere
(``/etc/cni/net.d``) belongs to a machine.
"""

from __future__ import annotations

import pathlib
import re

import pytest
import repository
import yaml
from repository import ROOT, Hit, Text, expect_none

FOLDERS = sorted({path.relative_to(ROOT).parts[0] for path in repository.files() if path.parent != ROOT})
# Such as hack/lab, tests/e2e, cnf/vip/plan.py, docs/decisions/0012-…md. After a colon it is an image or a URL.
# A link's own text may be shorter, for its target is looked at.
FIRST = "|".join(map(re.escape, [*FOLDERS, "reference", "shared"]))
UNDER_FOLDER = re.compile(rf"(?<![\w./~$@:}}{{%=-])((?>(?:{FIRST})/[\w.*…/-]*[\w*/]))(?!`?\]\()")
FILE_NAME = re.compile(r"(?<![\w/.*$}…-])([\w-]+\.(?:md|py|tpl))\b(?!\()")
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#[^)\s]*)?\)")
MODULE = re.compile(rf"`((?:{'|'.join(repository.packages())})(?:\.\w+)+)`")
OUTSIDE = re.compile(r"\bDESIGN\b|\breference numbers\b|/work/")

DEVELOPMENT = ROOT / "docs/development.md"
# A row of a table, or an item of a list with the lines that continue it.
ITEM = re.compile(r"^(?:\|.*|(?:\d+\.|-) .*(?:\n {2,}.*)*)", re.M)
NAME = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)`(?!\]\()")

VALUES = [path for path in repository.manifests() if path.name == "values.yaml"]
NAMES = {path.name for path in repository.files()}
# Files of others, by the names that they have there.
THEIRS = frozenset({"CONVENTIONS.md"})  # of the CNI specification


def cited_texts() -> list[Text]:
    """Return what is read: of Python, comments and docstrings."""
    found = [text for path in repository.python(product=False) for text in repository.comments(path)]
    found += [text for path in repository.python(product=False) for text in repository.docstrings(path)]
    others = [*repository.pages(), *repository.shell(), *repository.manifests(), ROOT / "pyproject.toml"]
    return found + [text for path in others for text in repository.lines(path)]


TEXTS = [text for text in cited_texts() if text.path != pathlib.Path(__file__)]


def cited(pattern: re.Pattern[str]) -> list[Hit]:
    return [hit for text in TEXTS for hit in text.search(pattern)]


def path_exists(hit: Hit) -> bool:
    # In capitals is what a reader puts there: tests/unit/PATH.
    pattern = re.sub(r"/[A-Z]+$", "/*", hit.text.replace("…", "*").rstrip("/"))
    bases = [base for base in (ROOT, *hit.path.parents) if base.is_relative_to(ROOT)]
    # A page in a folder may name what is anywhere below it.
    below = hit.path.parent != ROOT and any(hit.path.parent.rglob(pattern))
    return below or any(any(base.glob(pattern)) for base in bases)


def module_exists(dotted: str) -> bool:
    """Return whether it is a module, or begins with one that has the name after it."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:end])
        for module in (base.with_suffix(".py"), base / "__init__.py"):
            if module.exists():
                return end == len(parts) or re.search(rf"\b{parts[end]}\b", module.read_text()) is not None
    return False


def value_exists(dotted: str) -> bool:
    """Return whether a chart has this value: parts have values under their own names."""
    return any(has_value(yaml.safe_load(path.read_text()), dotted) for path in VALUES)


def has_value(values: object, dotted: str) -> bool:
    key, _, rest = dotted.partition(".")
    return isinstance(values, dict) and key in values and (not rest or has_value(values[key], rest))


def test_every_cited_path_exists() -> None:
    missing = [hit for hit in cited(UNDER_FOLDER) if not path_exists(hit)]
    expect_none(missing)


def test_every_cited_file_name_is_some_files() -> None:
    missing = [hit for hit in cited(FILE_NAME) if hit.text not in NAMES | THEIRS]
    expect_none(missing)


@pytest.mark.parametrize("page", repository.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_into_the_repository(page: pathlib.Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if target]
    wrong = [
        target
        for target in targets
        if not (page.parent / target).exists() or not (page.parent / target).resolve().is_relative_to(ROOT)
    ]
    assert not wrong


def is_file_name(name: str) -> bool:
    return name.rpartition(".")[2] in ("py", "md", "yaml", "json")


def source_of(target: str) -> str:
    """Return the text that a link from a page in docs/ leads to, of a folder all modules' texts."""
    path = DEVELOPMENT.parent / target
    modules = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return "\n".join(module.read_text() for module in modules)


def is_in(source: str, name: str) -> bool:
    return all(re.search(rf"\b{part}\b", source) for part in name.split("."))


def test_a_name_in_development_is_in_a_file_that_its_item_or_row_links() -> None:
    missing, checked = [], 0
    for item in Text(DEVELOPMENT, 1, DEVELOPMENT.read_text()).search(ITEM):
        source = "\n".join(source_of(target) for target in LINK.findall(item.text) if target)
        names = [name for name in NAME.findall(item.text) if source and not is_file_name(name)]
        missing += [Hit(item.path, item.line, name) for name in names if not is_in(source, name)]
        checked += len(names)
    expect_none(missing)
    assert checked


def test_every_cited_module_exists() -> None:
    missing = [hit for hit in cited(MODULE) if not module_exists(hit.text) and not value_exists(hit.text)]
    expect_none(missing)


def test_nothing_cites_what_is_outside_of_the_repository() -> None:
    expect_none(cited(OUTSIDE))
