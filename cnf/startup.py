"""Keeps new pods off this node while they would start without their interface (value ``cnf.startupTaint``).

The taint is taken off once a pod can be attached and carried here. It is put on again while Multus is not what the
container runtime calls: pods that start then run without their interface, and nobody refuses them. While cnf alone is
away it isn't, for pods wait for cnf by themselves. NoSchedule and never NoExecute: Multus is away for seconds at each
of its upgrades, which is no reason to evict a node's pods.

One invariant: a node is written only when its taint is not as it should be.
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
AGAIN_S = 60.0
"""After which the node is read again though nothing changed here: somebody else may have written it."""
SUFFIXES = (".conf", ".conflist", ".json")
"""What libcni takes for configurations."""
MULTUS = ("multus", "multus-shim")


def calls_multus(conf_dir: pathlib.Path) -> bool:
    """Whether the container runtime calls Multus: it goes by the first file that it can use, by name."""
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


class StartupTaint:
    """Keeps the taint of one node; ``ready`` says why nothing can be attached there yet, or None."""

    def __init__(
        self,
        client: kube_client.Client,
        *,
        node: str,
        conf_dir: pathlib.Path,
        ready: Callable[[], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._node, self._conf_dir, self._ready = client, node, conf_dir, ready
        self._clock = clock
        self._settled: bool | None = None
        self._look_at = 0.0
        self._controller = controller.Controller("startup taint", self.reconcile)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop``."""
        self._controller.enqueue(self._node)
        self._controller.run(stop)

    def reconcile(self, node: str) -> float:
        """Put the taint on or take it off when something changed."""
        wanted = self._wanted()
        if wanted is None or (wanted is self._settled and self._clock() < self._look_at):
            return PERIOD_S
        found = self._client.get(resource.NODES, node)
        patch = taints.tainted(found) if wanted else taints.untainted(found)
        if patch is not None:
            self._client.merge_patch(resource.NODES, node, "", patch)
            log.info("%s", "pods are kept off this node: Multus is away" if wanted else "pods may be scheduled here")
        self._settled, self._look_at = wanted, self._clock() + AGAIN_S
        return PERIOD_S

    def _wanted(self) -> bool | None:
        """Whether the taint shall be there; None to leave it as it is."""
        if not calls_multus(self._conf_dir):
            return True
        return False if self._ready() is None else None
