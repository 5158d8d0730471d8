"""The taint that keeps pods off a node until they can be attached there.

Pure. One invariant: no other taint of the node is touched, and a node that somebody changed since it was read is not
written (the patch names the version it was made for).
"""

from __future__ import annotations

from typing import Any

import msgspec

from fleetboard.model import core, names

MULTUS_AWAY = "multus-away"
"""Value of the taint where we put it on, and not whoever registered the node."""


def is_tainted(node: core.Node) -> bool:
    """Whether the node has our taint, with whichever effect somebody gave it."""
    return any(taint.key == names.TAINT_NOT_READY for taint in node.spec.taints)


def tainted(node: core.Node) -> dict[str, Any] | None:
    """Return the merge patch that puts our taint on the node, None when it is there."""
    if is_tainted(node):
        return None
    ours = core.Taint(key=names.TAINT_NOT_READY, value=MULTUS_AWAY, effect="NoSchedule")
    return _patch(node, [*node.spec.taints, ours])


def untainted(node: core.Node, *, registered: bool) -> dict[str, Any] | None:
    """Return the merge patch that takes our taint off the node, None when there is nothing to take.

    Args:
        node: As it was read.
        registered: Take it also where the node was registered with it.
    """
    kept = [taint for taint in node.spec.taints if not _is_over(taint, registered=registered)]
    return _patch(node, kept) if len(kept) < len(node.spec.taints) else None


def _is_over(taint: core.Taint, *, registered: bool) -> bool:
    return taint.key == names.TAINT_NOT_READY and (registered or taint.value == MULTUS_AWAY)


def _patch(node: core.Node, taints: list[core.Taint]) -> dict[str, Any]:
    # A merge patch replaces a list whole: the version keeps another's taint that came meanwhile.
    version = node.metadata.resource_version
    return {"metadata": {"resourceVersion": version}, "spec": {"taints": msgspec.to_builtins(taints)}}
