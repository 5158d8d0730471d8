"""Restarts the cluster's CoreDNS, and says how far its Deployment got."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fleetboard.kube.client import Client
from fleetboard.model import core, resource

SYSTEM = "kube-system"
COREDNS = "coredns"

RESTARTED_FOR = "fleetboard.io/dns-forwarding"
"""On the Deployment's pods: the digest of the block that they were started for."""
_POLL_S = 1.0


def restart(client: Client, digest: str | None) -> None:
    """Restart CoreDNS' pods: kubelet takes up to 90 s to update a ConfigMap in running pods."""
    deployment = client.find(resource.DEPLOYMENTS, COREDNS, SYSTEM)
    if deployment is None:
        return
    template = deployment.spec.get("template", {}).get("metadata", {}).get("annotations") or {}
    if template.get(RESTARTED_FOR) != digest:
        patch = {"spec": {"template": {"metadata": {"annotations": {RESTARTED_FOR: digest}}}}}
        client.merge_patch(resource.DEPLOYMENTS, COREDNS, SYSTEM, patch)


def is_available(client: Client) -> bool:
    """Return whether at least one pod of CoreDNS answers."""
    deployment = client.find(resource.DEPLOYMENTS, COREDNS, SYSTEM)
    return deployment is not None and deployment.status.get("availableReplicas", 0) > 0


def wait(
    client: Client, stop: threading.Event, *, rollout_s: float, outage_s: float, clock: Callable[[], float]
) -> bool:
    """Wait until every pod runs the new configuration and is available; return False if that fails.

    It fails after ``rollout_s``, or when no pod is available for ``outage_s``.
    """
    began = available_at = clock()
    while not stop.is_set():
        now = clock()
        deployment = client.find(resource.DEPLOYMENTS, COREDNS, SYSTEM)
        if deployment is None:
            return False
        if is_complete(deployment):
            return True
        if deployment.status.get("availableReplicas", 0):
            available_at = now
        if now - began > rollout_s or now - available_at > outage_s:
            return False
        stop.wait(_POLL_S)
    return False


def is_complete(deployment: core.PlainObject) -> bool:
    """Return whether every pod of a Deployment has its newest template, and at least one is available."""
    status = deployment.status
    replicas = deployment.spec.get("replicas", 1)
    wanted, updated = int(1 if replicas is None else replicas), status.get("updatedReplicas", 0)
    current = status.get("observedGeneration", 0) >= deployment.metadata.generation
    return bool(
        current
        and updated >= wanted
        and status.get("replicas", 0) == updated
        and status.get("availableReplicas", 0) >= min(1, wanted)
        and status.get("unavailableReplicas", 0) < max(1, wanted)
    )
