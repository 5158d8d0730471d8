"""What this cluster's own CRDs can hold, where installed ones may be older than ours.

One invariant: asked of what the API server serves, so that a CRD which somebody else manages counts as it is.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from fleetboard.kube import errors
from fleetboard.kube.client import Client
from fleetboard.model import resource

log = logging.getLogger(__name__)


def read(client: Client, kind: resource.AnyResource) -> Any:
    """Return the OpenAPI v3 document that describes ``kind``.

    Raises:
        errors.KubeError: it can't be read, which says nothing of what it holds.
    """
    path = f"/openapi/v3/apis/{kind.group}/{kind.version}"
    try:
        return msgspec.json.decode(client.read(path))
    except msgspec.DecodeError as err:
        raise errors.AnswerRefusedError(f"{client.server}{path}: not a schema: {err}") from err


def has_field(client: Client, kind: resource.AnyResource, *path: str) -> bool | None:
    """Tell whether objects of ``kind`` have the field ``path`` (as ``"status", "clusters"``); None is "can't tell".

    Server-side apply of a field that the schema lacks fails whole, so it has to be known before.
    """
    try:
        return find_field(read(client, kind), kind.kind, path)
    except errors.KubeError as err:
        log.warning("the schema can't be read", extra={"field": ".".join(path), "error": str(err)})
        return None


def find_field(document: Any, kind: str, path: tuple[str, ...]) -> bool:
    """Tell whether an OpenAPI v3 document describes the field ``path`` of ``kind``."""
    for schema in document.get("components", {}).get("schemas", {}).values():
        named = schema.get("x-kubernetes-group-version-kind", [])
        if any(one.get("kind") == kind for one in named):
            return _descend(schema, path)
    return False


def _descend(schema: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        properties = schema.get("properties", {})
        if name not in properties:
            return False
        schema = properties[name]
    return True
