"""Pod starts as kubelet sees them, on the lab: without a second network, with ours, and with Go's ``bridge`` beside it.

Invariant: the three take turns on one node, one pod at a time, so that what kubelet counts between two looks is
that pod's alone.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import queue
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import bench_cni
import bench_figures
from bench_figures import Figure

CONTEXT = "kind-fleet-c1"
NODE = "fleet-c1-worker"
NAMESPACE = "bench-kubelet"
IMAGE = "fleetboard-tools:latest"
ROUNDS = 12
KINDS = {"none": "", "fleetboard": "default/fleetboard", "bridge": f"{NAMESPACE}/beside"}
"""What a pod's annotation asks for."""
_PATIENCE_S = 120


class NoLabError(Exception):
    """The lab isn't there, or Fleetboard isn't installed on it."""


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Run kubectl on the measured cluster."""
    command = ["kubectl", "--context", CONTEXT, *arguments]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, check=False)
    except FileNotFoundError as err:
        raise NoLabError('there is no kubectl: eval "$(hack/lab env)" puts it on the PATH') from err
    if done.returncode:
        raise NoLabError(f"{' '.join(command[:6])} failed: {done.stderr.strip()}")
    return done.stdout


def apply(*objects: dict[str, Any]) -> None:
    """Create or update objects."""
    kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def pod(name: str, networks: str) -> dict[str, Any]:
    """Return a pod of that node which stays until it is deleted, and then goes at once."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "annotations": {"k8s.v1.cni.cncf.io/networks": networks} if networks else {},
        },
        "spec": {
            "nodeName": NODE,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "containers": [{"name": "main", "image": IMAGE, "command": ["sleep", "3600"], "imagePullPolicy": "Never"}],
        },
    }


@contextlib.contextmanager
def prepared(bridge: pathlib.Path) -> Iterator[None]:
    """Make the namespace, the network beside ours, and make sure that its plugin is on the node."""
    kubectl("get", "network-attachment-definitions", "--namespace", "default", "fleetboard")
    target = f"{NODE}:/opt/cni/bin/bridge"
    there = subprocess.run(["docker", "exec", NODE, "test", "-x", "/opt/cni/bin/bridge"], check=False).returncode == 0
    if not there:
        subprocess.run(["docker", "cp", "--quiet", str(bridge), target], check=True, timeout=60)
    # Only what a pod asks for is measured, where the lab attaches all others.
    alone = {"fleetboard.io/attach": "false"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": alone}}
    attachment = {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "beside", "namespace": NAMESPACE},
        "spec": {"config": json.dumps(bench_cni.beside())},
    }
    try:
        apply(namespace, attachment)
        yield
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
        subprocess.run(["docker", "exec", NODE, "ip", "link", "del", "beside0"], check=False, capture_output=True)
        if not there:
            subprocess.run(["docker", "exec", NODE, "rm", "-f", "/opt/cni/bin/bridge"], check=False)


def listen(lines: Iterable[str], phase_queue: queue.Queue[tuple[float, str]]) -> None:
    """Date every line."""
    for line in lines:
        phase_queue.put((time.monotonic(), line.strip()))


@contextlib.contextmanager
def phases() -> Iterator[queue.Queue[tuple[float, str]]]:
    """Lend a queue of what the API reports about the namespace's pods: the time, and "name phase"."""
    phase_queue: queue.Queue[tuple[float, str]] = queue.Queue()
    shown = 'jsonpath={.metadata.name} {.status.phase}{"\\n"}'
    command = ["kubectl", "--context", CONTEXT, "--namespace", NAMESPACE, "get", "pods", "--watch", "-o", shown]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        reader = threading.Thread(target=listen, args=(watch.stdout, phase_queue))
        reader.start()
        try:
            yield phase_queue
        finally:
            watch.kill()
            reader.join(10)


def sandboxes() -> tuple[float, int]:
    """Return kubelet's own count: seconds in RunPodSandbox, and how many there were."""
    metrics = kubectl("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/metrics")
    name = r"^kubelet_runtime_operations_duration_seconds_%s\{operation_type=\"run_podsandbox\"\} (\S+)$"
    found = [re.search(name % kind, metrics, re.MULTILINE) for kind in ("sum", "count")]
    if found[0] is None or found[1] is None:
        return 0.0, 0
    return float(found[0][1]), int(float(found[1][1]))


def start(name: str, networks: str, phase_queue: queue.Queue[tuple[float, str]]) -> tuple[float, float] | None:
    """Start a pod and delete it; return the milliseconds of its sandbox and until it ran.

    None when kubelet made another sandbox meanwhile.
    """
    before = sandboxes()
    begun = time.monotonic()
    apply(pod(name, networks))
    deadline = begun + _PATIENCE_S
    while True:
        at, line = phase_queue.get(timeout=max(0.1, deadline - time.monotonic()))
        if line == f"{name} Running":
            break
    after = sandboxes()
    kubectl("delete", "pod", name, "--namespace", NAMESPACE)
    if after[1] != before[1] + 1:
        return None
    return (after[0] - before[0]) * 1000, (at - begun) * 1000


def bench(bridge: pathlib.Path) -> tuple[list[Figure], object]:
    """Start pods of each kind by turns; return the figures and the samples."""
    sandbox: dict[str, list[float]] = {kind: [] for kind in KINDS}
    whole: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with prepared(bridge), phases() as phase_queue:
        for number in range(ROUNDS + 1):
            kinds = list(KINDS)[number % 3 :] + list(KINDS)[: number % 3]
            for kind in kinds:
                took = start(f"{kind}-{number}", KINDS[kind], phase_queue)
                # The first round is not counted: `bridge` makes its bridge.
                if took is not None and number:
                    sandbox[kind].append(took[0])
                    whole[kind].append(took[1])
    return figures(sandbox, whole), {"sandbox_ms": sandbox, "running_ms": whole}


def figures(sandbox: dict[str, list[float]], whole: dict[str, list[float]]) -> list[Figure]:
    """Make the lines of the table."""
    added = {kind: statistics.median(sandbox[kind]) - statistics.median(sandbox["none"]) for kind in KINDS}
    return [
        bench_figures.compare("kubelet: sandbox of a pod, p50 / p90", sandbox["fleetboard"], sandbox["bridge"]),
        Figure("  without a second network", bench_figures.shown(sandbox["none"])),
        Figure(
            "  what the second network adds at p50",
            f"{added['fleetboard']:.0f} ms",
            f"{added['bridge']:.0f} ms",
            added["fleetboard"] / added["bridge"] if added["bridge"] > 0 else None,
        ),
        bench_figures.compare("kubelet: created until running, p50 / p90", whole["fleetboard"], whole["bridge"]),
        Figure("  without a second network", bench_figures.shown(whole["none"])),
    ]
