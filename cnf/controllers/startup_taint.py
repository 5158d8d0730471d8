"""Keeps new pods off this node while they would start without their attachment (value ``cnf.startupTaint``).

The controller removes the taint that a node was registered with once a pod can be attached and carried here. It adds
one while the container runtime doesn't call Multus: pods that start then run without their attachment, and nothing
refuses them. It removes that one when Multus is back, whatever the agent's own state, since pods wait for the agent by
themselves. The effect is NoSchedule and never NoExecute: at each upgrade Multus is away for seconds, which is no reason
to evict a node's pods.

Invariant: a node is written only when its taint is wrong. A node that never ran Multus is never tainted for its lack:
the folder may be the wrong one.
"""

from __future__ import annotations

import json
import logging
import pathlib
import threading
import time
from collections.abc import Callable

from fleetboard.kube import client as kube_client
from fleetboard.kube import controller
from fleetboard.model import resource, taints

log = logging.getLogger(__name__)

PERIOD_S = 1.0
"""How often the runtime's folder is read, which raises no event: pods start without their attachment meanwhile."""
RESYNC_S = 60.0
"""When to read the node again although nothing changed here: somebody else may have written it."""
SUFFIXES = (".conf", ".conflist", ".json")
"""Files that libcni reads as configurations."""
MULTUS = ("multus", "multus-shim")


def calls_multus(conf_dir: pathlib.Path) -> bool:
    """Return whether the container runtime calls Multus: it uses the first valid file, by name."""
    for path in sorted(conf_dir.iterdir()) if conf_dir.is_dir() else []:
        types = _types(path) if path.suffix in SUFFIXES else []
        if types:
            return types[0] in MULTUS
    return False


def _types(path: pathlib.Path) -> list[str]:
    try:
        config = json.loads(path.read_bytes())
        plugins = config.get("plugins", [config])
        return [plugin["type"] for plugin in plugins]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return []


class StartupTaintController:
    """Reconciles the taint of one node; ``unready_reason`` returns why nothing can be attached there yet, or None."""

    def __init__(
        self,
        client: kube_client.Client,
        *,
        node: str,
        conf_dir: pathlib.Path,
        state_dir: pathlib.Path,
        unready_reason: Callable[[], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._node, self._conf_dir, self._unready_reason = client, node, conf_dir, unready_reason
        self._seen_path = state_dir / "multus-seen"
        self._seen = self._seen_path.exists()
        self._warned = False
        self._clock = clock
        self._written: tuple[bool, bool] | None = None
        self._recheck_at = 0.0
        self._controller = controller.Controller("startup taint", self.reconcile)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop``."""
        self._controller.enqueue(self._node)
        self._controller.run(stop)

    def reconcile(self, node: str) -> float:
        """Add or remove the taint when something changed."""
        away = not self._multus_is_called()
        if away and not self._seen:
            self._warn()
            return PERIOD_S
        state = (away, not away and self._unready_reason() is None)
        if state == self._written and self._clock() < self._recheck_at:
            return PERIOD_S
        node_object = self._client.get(resource.NODES, node)
        patch = taints.tainted(node_object) if away else taints.untainted(node_object, registered=state[1])
        if patch is not None:
            self._client.merge_patch(resource.NODES, node, "", patch)
            log.info("%s", "tainted the node: Multus is away" if away else "removed the node's startup taint")
        self._written, self._recheck_at = state, self._clock() + RESYNC_S
        return PERIOD_S

    def _multus_is_called(self) -> bool:
        called = calls_multus(self._conf_dir)
        if called and not self._seen:
            self._seen = True
            try:
                self._seen_path.touch()
            except OSError as err:
                log.warning("could not record that Multus was seen on this node", extra={"error": str(err)})
        return called

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "no configuration of Multus in cni.confDir, now or before: leaving the startup taint as it is",
                extra={"path": str(self._conf_dir)},
            )
