"""The taint that keeps pods off a node until they can be attached there.

Pure. One invariant: no other taint of the node is touched, and a node that somebody changed since it was read is not
written (the patch names the version it was made for).
"""

from __future__ import annotations

from typing import Any

import msgspec

from fleetboard.model import core, names


def is_tainted(node: core.Node) -> bool:
    """Whether the node has our taint, with whichever effect somebody gave it."""
    return any(taint.key == names.TAINT_NOT_READY for taint in node.spec.taints)


def tainted(node: core.Node) -> dict[str, Any] | None:
    """Return the merge patch that puts our taint on the node, None when it is there."""
    if is_tainted(node):
        return None
    return _patch(node, [*node.spec.taints, core.Taint(key=names.TAINT_NOT_READY, effect="NoSchedule")])


def untainted(node: core.Node) -> dict[str, Any] | None:
    """Return the merge patch that takes our taint off the node, None when it isn't there."""
    if not is_tainted(node):
        return None
    return _patch(node, [taint for taint in node.spec.taints if taint.key != names.TAINT_NOT_READY])


def _patch(node: core.Node, taints: list[core.Taint]) -> dict[str, Any]:
    # A merge patch replaces a list whole: the version keeps another's taint that came meanwhile.
    version = node.metadata.resource_version
    return {"metadata": {"resourceVersion": version}, "spec": {"taints": msgspec.to_builtins(taints)}}
