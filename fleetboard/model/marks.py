"""Labels and annotations of an export: which of them an importing cluster puts on its ServiceImport.

Invariant: every API server accepts the result, and no software of the importing cluster acts on it. One invalid key of
one exporter must not prevent the write of all the others' endpoints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fleetboard.model import names

ANNOTATIONS_LIMIT = 64 * 1024
"""Bytes of all annotations taken from exports; an API server accepts 256 KiB on one object, users' own included."""

# apimachinery's IsQualifiedName and IsValidLabelValue.
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

_STEERING_PREFIXES = ("argocd.argoproj.io", "kubectl.kubernetes.io")
_STEERING_KEYS = ("app.kubernetes.io/instance",)
"""Argo CD deletes objects with its marks that aren't in its repository; kubectl merges with last-applied."""


def take_labels(exported: Mapping[str, str]) -> dict[str, str]:
    """Return those of an export's labels that a ServiceImport may carry."""
    return {
        key: value
        for key, value in exported.items()
        if is_qualified_name(key) and _is_value(value) and not _steers(key)
    }


def take_annotations(exported: Mapping[str, str]) -> dict[str, str]:
    """Return those of an export's annotations that a ServiceImport may carry: in the order of names, as many as fit."""
    taken: dict[str, str] = {}
    left = ANNOTATIONS_LIMIT
    for key, value in sorted(exported.items()):
        size = len(key) + len(value.encode())
        if is_qualified_name(key) and not _steers(key) and size <= left:
            taken[key] = value
            left -= size
    return taken


def is_qualified_name(key: str) -> bool:
    """Return whether Kubernetes accepts a key, or a port's appProtocol: a name, or DNS subdomain "/" name."""
    prefix, slash, name = key.rpartition("/")
    return bool(_NAME.fullmatch(name)) and (not slash or (len(prefix) <= 253 and bool(_PREFIX.fullmatch(prefix))))


def _is_value(value: str) -> bool:
    return not value or bool(_NAME.fullmatch(value))


def _steers(key: str) -> bool:
    prefix = key.rpartition("/")[0]
    ours = prefix == names.GROUP or prefix.endswith("." + names.GROUP)
    return ours or prefix in _STEERING_PREFIXES or key in _STEERING_KEYS
