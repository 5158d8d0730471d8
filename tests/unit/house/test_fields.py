"""A field of our own kinds is written by the product, and is in their CRDs as it is in the structs.

What counts as written, by the syntax tree alone: a keyword of a call of a class of that name, a keyword of
``msgspec.structs.replace``, and a key of a dict (or an assignment to one) in the CRD's spelling, as merge patches have
it, except the fields of a log line. The last two know the field's name and not its class: a field goes unnoticed as
long as another of its name is written so. One that is only ever written with its default counts as written too.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import repository
import yaml
from repository import ROOT

# No component decides which kind an object is.
FIXED = frozenset({"api_version", "kind"})
GROUP = "fleetboard.io"
SCALARS = {"str": "string", "int": "integer", "bool": "boolean"}


@dataclasses.dataclass(frozen=True)
class Struct:
    """A struct of the API, as its class says."""

    name: str
    fields: dict[str, str]
    """Name to annotation."""

    @property
    def kind(self) -> bool:
        return set(self.fields) >= FIXED


def find_model() -> pathlib.Path:
    """Return the module that declares our kinds, wherever it is."""
    (found,) = [
        path
        for path in repository.python(product=True)
        if any(isinstance(node, ast.ClassDef) and node.name == "FleetNodeSpec" for node in repository.tree(path).body)
    ]
    return found


def read_structs() -> dict[str, Struct]:
    """Return every public class of that module that has fields."""
    found = {}
    for node in repository.tree(find_model()).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            annotated = [one for one in node.body if isinstance(one, ast.AnnAssign)]
            fields = {
                one.target.id: ast.unparse(one.annotation) for one in annotated if isinstance(one.target, ast.Name)
            }
            if fields:
                found[node.name] = Struct(node.name, fields)
    return found


STRUCTS = read_structs()
FIELDS = [(struct.name, field) for struct in STRUCTS.values() for field in struct.fields if field not in FIXED]
KINDS = [struct.name for struct in STRUCTS.values() if struct.kind]


def camel(field: str) -> str:
    """Return a field's name in JSON, as msgspec's ``rename="camel"`` has it."""
    first, *others = field.split("_")
    return first + "".join(other.title() for other in others)


@functools.cache
def writes() -> tuple[frozenset[tuple[str, str]], frozenset[str], frozenset[str]]:
    """Return (class, keyword) of calls, the keywords of ``replace``, and the keys of dicts."""
    calls: set[tuple[str, str]] = set()
    replaced: set[str] = set()
    keys: set[str] = set()
    for path in repository.python(product=True):
        nodes = list(ast.walk(repository.tree(path)))
        logged = {node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "extra"}
        for node in nodes:
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
                words = {keyword.arg for keyword in node.keywords if keyword.arg}
                calls.update((called, word) for word in words)
                if ast.unparse(node.func).endswith("structs.replace"):
                    replaced |= words
            elif isinstance(node, ast.Dict) and node not in logged:
                keys.update(_constants(node.keys))
            elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                keys.update(_constants([node.slice]))
    return frozenset(calls), frozenset(replaced), frozenset(keys)


def _constants(nodes: list[ast.expr | None] | list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize(("struct", "field"), FIELDS, ids=[f"{struct}.{field}" for struct, field in FIELDS])
def test_a_field_has_a_writer(struct: str, field: str) -> None:
    calls, replaced, keys = writes()
    written = (struct, field) in calls or field in replaced or camel(field) in keys
    assert written, "no writer in the product"


@functools.cache
def read_schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of each of our kinds."""
    crds = [yaml.safe_load(path.read_text()) for path in (ROOT / "manifests/crds").glob("*.yaml")]
    return {
        crd["spec"]["names"]["kind"]: version["schema"]["openAPIV3Schema"]
        for crd in crds
        if crd["spec"]["group"] == GROUP
        for version in crd["spec"]["versions"]
    }


def test_every_kind_has_a_struct_and_a_definition() -> None:
    assert sorted(KINDS) == sorted(read_schemas())


@pytest.mark.parametrize("kind", KINDS)
def test_a_definition_has_just_the_fields_of_its_struct(kind: str) -> None:
    assert not list(compare(read_schemas()[kind], kind, kind))


def compare(schema: dict[str, Any], annotation: str, where: str) -> Iterator[str]:
    """Yield where a schema and what the struct's field is declared as differ."""
    declared = annotation.removesuffix(" | None").rpartition(".")[2] if "[" not in annotation else annotation
    if declared in SCALARS:
        if schema["type"] != SCALARS[declared]:
            yield f"{where}: {schema['type']} in the CRD, {declared} in the struct"
    elif declared.startswith("list["):
        yield from compare(schema["items"], declared[len("list[") : -1], f"{where}[]")
    elif declared.startswith("dict["):
        if schema["type"] != "object" or "additionalProperties" not in schema:
            yield f"{where}: no map in the CRD"
    elif declared in STRUCTS:
        properties: dict[str, Any] = schema.get("properties", {})
        fields = {camel(field): annotation for field, annotation in STRUCTS[declared].fields.items()}
        yield from (f"{where}: {name} is in one of both alone" for name in sorted(set(properties) ^ set(fields)))
        for name in sorted(set(properties) & set(fields) - {"metadata"}):
            yield from compare(properties[name], fields[name], f"{where}.{name}")
