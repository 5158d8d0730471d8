"""Removes Fleetboard from a member cluster: the pre-delete hook of the agent's chart.

It runs while everything still works. It first lists the pods that will lose their second interface. Then it stops each
part and undoes the part's work, in the order that harms least: names, the exports on the hub, the nodes.

Every step is idempotent, so an interrupted hook can run again from the start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fleetboard.kube import client as kube_client
from fleetboard.kube import errors
from fleetboard.model import core, fleet, names, resource, taints
from fleetboard.runtime import logs
from syncer.member.uninstall import leave

log = logging.getLogger(__name__)

CLEANUP = "fleetboard-cleanup"
ATTACH = "fleetboard-attach"
STEP_S = 60.0


class UninstallError(Exception):
    """A step did not finish in time; the message says which."""


def describe_attached(published: Iterable[fleet.NodeAttachments]) -> list[str]:
    """Return one line for each attached pod, sorted."""
    lines = [
        f"{attachment.pod_namespace}/{attachment.pod_name} on {node.metadata.name}: "
        f"{attachment.interface} {', '.join(attachment.addresses)}"
        for node in published
        for attachment in node.attachments
    ]
    return sorted(lines)


def render_cleanup(*, namespace: str, image: str, cni_bin_dir: str) -> dict[str, Any]:
    """Render the DaemonSet that removes Fleetboard's files from every node (``cni.remove``).

    It mounts the parents of the folders, because a mount point can't be removed from inside. The image is on the node:
    cnf was just running from it.
    """
    resources = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}}
    image_of = {"image": image, "imagePullPolicy": "IfNotPresent", "resources": resources}
    mounts = {"cni-bin": cni_bin_dir, "var-lib": "/var/lib", "run": "/run"}
    labels = {names.LABEL_APP: CLEANUP}
    init = {
        "name": "clean",
        **image_of,
        "command": ["python", "-m", "cni.remove"],
        "env": [{"name": "CNI_BIN_DIR", "value": "/host/cni-bin"}],
        "securityContext": {"runAsUser": 0, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True},
        "volumeMounts": [{"name": name, "mountPath": f"/host/{name}"} for name in mounts],
    }
    rest = {"name": "done", **image_of, "command": ["sleep", "infinity"]}
    return {
        "metadata": {"name": CLEANUP, "namespace": namespace, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "automountServiceAccountToken": False,
                    # As cnf has: a node that is full or under pressure is cleaned too.
                    "priorityClassName": "system-node-critical",
                    "terminationGracePeriodSeconds": 0,
                    "tolerations": [{"operator": "Exists"}],
                    "initContainers": [init],
                    "containers": [rest],
                    "volumes": [{"name": name, "hostPath": {"path": path}} for name, path in mounts.items()],
                },
            },
        },
    }


def dead_nodes(nodes: Iterable[core.Node]) -> frozenset[str]:
    """Return the nodes whose kubelet does not answer: nothing can be stopped, started or cleaned there."""
    return frozenset(
        node.metadata.name
        for node in nodes
        if not any(condition.type == "Ready" and condition.status == "True" for condition in node.status.conditions)
    )


def is_cleaned(status: Mapping[str, Any], *, dead: int) -> bool:
    """Return whether the cleanup's pods are ready on every node but ``dead`` ones."""
    wanted = int(status.get("desiredNumberScheduled", 0))
    return wanted > 0 and int(status.get("numberReady", 0)) >= max(1, wanted - dead)


def wait_until(done: Callable[[], bool], *, what: str, timeout_s: float = STEP_S) -> None:
    """Poll until ``done`` is true.

    Raises:
        UninstallError: naming ``what``, when it takes too long.
    """
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise UninstallError(f"{what} took longer than {timeout_s:.0f} s")
        time.sleep(0.5)


def main() -> int:
    """Run every step; return the exit status."""
    logs.configure("uninstall", os.environ.get("LOG_LEVEL", "info"))
    namespace = os.environ.get("NAMESPACE", names.NAMESPACE)
    client = kube_client.Client.in_cluster(user_agent="fleetboard-uninstall")
    for step, run in _steps(client, namespace):
        try:
            run()
        except (errors.KubeError, UninstallError) as err:
            log.error("uninstall stopped at: %s: %s", step, err)
            return 1
    log.info("removed Fleetboard from all nodes that are ready")
    return 0


def _steps(client: kube_client.Client, namespace: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Iterate over the steps, in their order: what each does, and the function."""
    forwards = os.environ.get("DNS_CONFIGURE") == "true"
    yield "listing attached pods", lambda: _list_attached(client, namespace)
    yield "ending attach by default", lambda: _stop_attaching(client, os.environ.get("ATTACH_API", ""))
    yield "stopping syncer", lambda: _stop_part(client, resource.DEPLOYMENTS, "syncer", namespace)
    yield "leaving the clusterset", lambda: leave.leave(client, namespace, forwards=forwards)
    yield "stopping cnf", lambda: _stop_part(client, resource.DAEMON_SETS, "cnf", namespace)
    yield "cleaning the nodes", lambda: _clean_nodes(client, namespace)
    if os.environ.get("STARTUP_TAINT") == "true":
        what = "removing the startup taint from the nodes"
        yield what, lambda: wait_until(lambda: _untaint_nodes(client), what=what)
    yield "deleting Fleetboard's objects", lambda: _forget_state(client, namespace)


def _list_attached(client: kube_client.Client, namespace: str) -> None:
    published, _ = client.list(resource.NODE_ATTACHMENTS, namespace)
    lines = describe_attached(published)
    log.info("attached pods lose their second interface", extra={"pods": len(lines)})
    for line in lines:
        log.warning("a pod loses its second interface", extra={"pod": line})


def attach_binding(api_version: str) -> resource.Resource[core.PlainObject]:
    """Return the kind of the binding of attach by default, in the version that the chart created."""
    group, _, version = api_version.partition("/")
    plural = "mutatingadmissionpolicybindings"
    return resource.Resource(
        group, version, plural, "MutatingAdmissionPolicyBinding", core.PlainObject, namespaced=False
    )


def _stop_attaching(client: kube_client.Client, api_version: str) -> None:
    """Let new pods start without Fleetboard: with its annotation, they would wait for its network forever."""
    if api_version:
        client.delete(attach_binding(api_version), ATTACH)


def _stop_part(client: kube_client.Client, kind: resource.AnyResource, name: str, namespace: str) -> None:
    """Delete the workload and wait for its pods: while they run, they would undo the next steps."""
    client.delete(kind, name, namespace)
    wait_until(lambda: not _living_pods(client, name, namespace), what=f"stopping {name}")


def _living_pods(client: kube_client.Client, name: str, namespace: str) -> list[core.Pod]:
    """Return a part's pods, except those on dead nodes, which are objects only."""
    found, _ = client.list(resource.PODS, namespace, selector=f"{names.LABEL_APP}={name}")
    dead = dead_nodes(client.list(resource.NODES)[0]) if found else frozenset()
    return [pod for pod in found if pod.spec.node_name not in dead]


def _clean_nodes(client: kube_client.Client, namespace: str) -> None:
    cni_bin_dir = os.environ.get("CNI_BIN_DIR_HOST", "/opt/cni/bin")
    manifest = render_cleanup(namespace=namespace, image=os.environ["IMAGE"], cni_bin_dir=cni_bin_dir)
    client.apply(resource.DAEMON_SETS, manifest, manager="uninstall")
    dead = dead_nodes(client.list(resource.NODES)[0])
    if dead:
        log.warning(
            "nodes that are not ready keep Fleetboard's files",
            extra={"nodes": sorted(dead), "folders": [cni_bin_dir, "/var/lib/fleetboard", "/run/fleetboard"]},
        )
    try:
        wait_until(
            lambda: is_cleaned(client.get(resource.DAEMON_SETS, CLEANUP, namespace).status, dead=len(dead)),
            what="cleaning the nodes",
        )
    finally:
        with contextlib.suppress(errors.KubeError):
            client.delete(resource.DAEMON_SETS, CLEANUP, namespace)
    wait_until(lambda: not _living_pods(client, CLEANUP, namespace), what="stopping the cleanup")


def _untaint_nodes(client: kube_client.Client) -> bool:
    """Remove the startup taint, as cnf did until now; return whether no node has it."""
    tainted = [node for node in client.list(resource.NODES)[0] if taints.is_tainted(node)]
    for node in tainted:
        with contextlib.suppress(errors.ConflictError, errors.NotFoundError):
            client.merge_patch(resource.NODES, node.metadata.name, "", taints.untainted(node, registered=True) or {})
    return not tainted


def _forget_state(client: kube_client.Client, namespace: str) -> None:
    """Delete the objects that parts wrote; Helm knows only those that it created."""
    kinds: tuple[resource.AnyResource, ...] = (
        resource.NODE_ATTACHMENTS,
        resource.FLEET_NODES,
        resource.CLAIMS,
        resource.FLEET_SERVICES,
        resource.PEERS,
        resource.PEER_REPORTS,
    )
    for kind in kinds:
        for obj in client.list(kind, namespace)[0]:
            client.delete(kind, obj.metadata.name, namespace)
    client.delete(resource.SECRETS, "hub-credential", namespace)
    for lease in ("cnf-leader", "syncer"):
        client.delete(resource.LEASES, lease, namespace)


if __name__ == "__main__":
    sys.exit(main())
