"""Reads which fields this cluster's MCS CRDs have: installed ones may be older than ours.

It asks what the API server serves, so that a CRD which somebody else manages counts as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from fleetboard.kube import errors
from fleetboard.kube.client import Client
from fleetboard.model import mcs, resource
from syncer.member.imports import plan

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class ImportSchema:
    """What ServiceImports are in this cluster.

    Attributes:
        kind: ServiceImport in the version to use.
        slice_objects: Whether they have ``status.endpointSliceObjects``.
        fields: The optional fields that their spec has (``plan.OPTIONAL_FIELDS``).
    """

    kind: resource.Resource[mcs.ServiceImport] = resource.SERVICE_IMPORTS
    slice_objects: bool = True
    fields: frozenset[str] = plan.OPTIONAL_FIELDS


class _Named(msgspec.Struct):
    name: str


class _Served(msgspec.Struct):
    resources: list[_Named]


def read_import(client: Client) -> ImportSchema:
    """Read which ServiceImports this cluster has.

    Raises:
        KubeError: it can't be read.
    """
    kind = newest(client, resource.SERVICE_IMPORTS, known=mcs.VERSIONS)
    document = read(client, kind)
    return ImportSchema(
        kind=kind,
        slice_objects=find_field(document, kind.kind, ("status", "endpointSliceObjects")),
        fields=frozenset(name for name in plan.OPTIONAL_FIELDS if find_field(document, kind.kind, ("spec", name))),
    )


def read(client: Client, kind: resource.AnyResource) -> Any:
    """Return the OpenAPI v3 document that describes ``kind``.

    Raises:
        KubeError: it can't be read.
    """
    path = f"/openapi/v3/apis/{kind.group}/{kind.version}"
    try:
        return msgspec.json.decode(client.read(path))
    except msgspec.DecodeError as err:
        raise errors.AnswerRefusedError(f"{client.server}{path}: not a schema: {err}") from err


def newest(client: Client, kind: resource.Resource[T], *, known: Iterable[str]) -> resource.Resource[T]:
    """Return ``kind`` in the first version of ``known`` that is served, or unchanged when none is.

    Kubernetes' own controllers watch the newest version. Watches of another version cost the API server a second cache,
    and its garbage collector asks three times about each object whose owner is named in another version.

    Raises:
        KubeError: the served resources can't be read.
    """
    for version in known:
        path = f"/apis/{kind.group}/{version}"
        try:
            served = msgspec.json.decode(client.read(path), type=_Served)
        except errors.NotFoundError:
            continue
        except msgspec.DecodeError as err:
            raise errors.AnswerRefusedError(f"{client.server}{path}: not a list of resources: {err}") from err
        if any(entry.name == kind.plural for entry in served.resources):
            return kind.at(version)
    return kind


def find_field(document: Any, kind: str, path: tuple[str, ...]) -> bool:
    """Return whether an OpenAPI v3 document describes the field ``path`` of ``kind``."""
    for schema in document.get("components", {}).get("schemas", {}).values():
        named = schema.get("x-kubernetes-group-version-kind", [])
        if any(entry.get("kind") == kind for entry in named):
            return _descend(schema, path)
    return False


def _descend(schema: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        properties = schema.get("properties", {})
        if name not in properties:
            return False
        schema = properties[name]
    return True
