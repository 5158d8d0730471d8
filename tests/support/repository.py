"""The repository as its own tests read it: files, syntax trees, and the words in them."""

from __future__ import annotations

import ast
import dataclasses
import functools
import io
import pathlib
import re
import tokenize
import tomllib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Hidden folders are tools' caches, except this one.
CI = ".ci"
MADE = frozenset({"build", "dist", "__pycache__"})


@dataclasses.dataclass(frozen=True)
class Hit:
    """A piece of text that a test objects to, and where it is."""

    path: pathlib.Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.text}"


@dataclasses.dataclass(frozen=True)
class Text:
    """A piece of text and the line it begins at."""

    path: pathlib.Path
    line: int
    text: str

    def search(self, pattern: re.Pattern[str]) -> list[Hit]:
        """Return the matches of a pattern, or of its last group."""
        return [
            Hit(self.path, self.line + self.text.count("\n", 0, hit.start()), hit[hit.lastindex or 0])
            for hit in pattern.finditer(self.text)
        ]


@functools.cache
def files() -> tuple[pathlib.Path, ...]:
    """Return every file that belongs to the repository."""
    return tuple(sorted(_walk(ROOT)))


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for path in folder.iterdir():
        if path.name in MADE or (path.name.startswith(".") and path.name != CI and path.is_dir()):
            continue
        # A link shows files that are elsewhere.
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        elif path.is_file() and path.name != ".git":
            yield path


@functools.cache
def packages() -> tuple[str, ...]:
    """Return the names of the product's packages."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return tuple(settings["tool"]["importlinter"]["root_packages"])


def python(*, product: bool) -> list[pathlib.Path]:
    """Return the product's modules, or every Python file."""
    found = [path for path in files() if path.suffix == ".py"]
    return [path for path in found if not product or path.relative_to(ROOT).parts[0] in packages()]


def pages() -> list[pathlib.Path]:
    return [path for path in files() if path.suffix == ".md"]


def shell() -> list[pathlib.Path]:
    """Return scripts, the Makefile and what builds images."""
    return [path for path in files() if path.relative_to(ROOT).parts[0] in ("hack", CI, "Makefile")]


def manifests() -> list[pathlib.Path]:
    return [path for path in files() if path.relative_to(ROOT).parts[0] == "manifests"]


@functools.cache
def tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text())


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def lines(path: pathlib.Path) -> list[Text]:
    return [Text(path, number, line) for number, line in enumerate(path.read_text().splitlines(), 1)]


def strings(path: pathlib.Path) -> list[Text]:
    """Return every string constant, docstrings and the fixed parts of f-strings included."""
    return [
        Text(path, node.lineno, node.value)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def docstrings(path: pathlib.Path) -> list[Text]:
    """Return strings that are statements: docstrings, those below fields too."""
    return [
        Text(path, node.lineno, node.value.value)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


def comments(path: pathlib.Path) -> list[Text]:
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return [Text(path, token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]


def expect_none(offenders: list[Hit]) -> None:
    """Fail with one offender a line."""
    if offenders:
        listed = "\n".join(sorted({str(hit) for hit in offenders}))
        pytest.fail(f"{len(offenders)} found\n{listed}", pytrace=False)
