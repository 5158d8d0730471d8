"""The taint that keeps pods off a node until cnf can attach them.

Invariant: no other taint of the node changes, and a patch applies only to the version of the node it was made for.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fleetboard.model import core, names

MULTUS_AWAY = "multus-away"
"""Value of the taint when cnf added it; the node may also be registered with it."""


def is_tainted(node: core.Node) -> bool:
    """Return whether the node has Fleetboard's taint, with any effect."""
    return any(taint.key == names.TAINT_NOT_READY for taint in node.spec.taints)


def tainted(node: core.Node) -> dict[str, Any] | None:
    """Return the merge patch that adds the taint to the node, None when it is there."""
    if is_tainted(node):
        return None
    ours = core.Taint(key=names.TAINT_NOT_READY, value=MULTUS_AWAY, effect="NoSchedule")
    return _patch(node, [*node.spec.taints, ours])


def untainted(node: core.Node, *, registered: bool) -> dict[str, Any] | None:
    """Return the merge patch that removes the taint from the node, None when it is absent.

    Args:
        node: The node as it was read.
        registered: Remove it also when the node was registered with it.
    """
    kept = [taint for taint in node.spec.taints if not _is_over(taint, registered=registered)]
    return _patch(node, kept) if len(kept) < len(node.spec.taints) else None


def _is_over(taint: core.Taint, *, registered: bool) -> bool:
    return taint.key == names.TAINT_NOT_READY and (registered or taint.value == MULTUS_AWAY)


def _patch(node: core.Node, taints: list[core.Taint]) -> dict[str, Any]:
    # A merge patch replaces the whole list: the version protects taints that others added meanwhile.
    version = node.metadata.resource_version
    return {"metadata": {"resourceVersion": version}, "spec": {"taints": msgspec.to_builtins(taints)}}
