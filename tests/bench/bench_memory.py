"""Memory of cnf by number of attachments, and of the executable; how long attachments take to come back.

Pods are attached through the socket, without the executable: only cnf is measured.
"""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess

import bench_node
import packed_shim
from bench_figures import Figure

from cnf.attach import frames

COUNTS = (0, 100, 250)
REPLUMBED = 100
_SOCKET = "/run/fleetboard/cni.sock"
_CONFIG = b'{"cniVersion":"1.0.0","name":"fleetboard","type":"fleetboard"}'


def call(verb: str, pod: str) -> None:
    """Make one call."""
    env = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": pod,
        "CNI_NETNS": f"/run/netns/{pod}",
        "CNI_IFNAME": "net1",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID=u-{pod}",
    }
    namespace = os.open(f"/run/netns/{pod}", os.O_RDONLY)
    content = b""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(_SOCKET)
            socket.send_fds(sock, [frames.render_request(env, _CONFIG)], [namespace])
            while chunk := sock.recv(1 << 16):
                content += chunk
    finally:
        os.close(namespace)
    if not content.startswith(b"0 "):
        raise SystemExit(f"bench: {verb} failed: {content.decode()}")


def attached(node_netns: str) -> int:
    """Count the pods that cnf's namespace has an interface for."""
    links = subprocess.run(
        ["ip", "-n", node_netns, "-o", "link", "show", "type", "veth"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return len(links.stdout.splitlines())


def bench(work: pathlib.Path, *, shim: pathlib.Path) -> tuple[list[Figure], object]:
    """Attach pods in steps, then replace cnf; return the figures and what they are made of."""
    pods = [f"m{number}" for number in range(max(COUNTS))]
    bench_node.make_namespaces(["cnf", "next", *pods])
    cnf = bench_node.Cnf.start(work / "state", "cnf")
    megabytes: dict[int, float] = {}
    done = 0
    try:
        for count in COUNTS:
            for pod in pods[done:count]:
                call("ADD", pod)
            done = count
            megabytes[count] = cnf.resident_mb()
        for pod in pods[REPLUMBED:]:
            call("DEL", pod)
        cnf.kill()
        cnf = bench_node.Cnf.start(work / "state", "cnf")
        adopted_s, adopted_start_s = cnf.report["restored_s"], cnf.started_s
        cnf.kill()
        # A replaced pod: the namespace, and with it every interface, is gone.
        bench_node.remove_namespaces(["cnf"])
        cnf = bench_node.Cnf.start(work / "state", "next")
        if attached("next") != REPLUMBED:
            raise SystemExit(f"bench: {attached('next')} of {REPLUMBED} pods are back")
    finally:
        cnf.kill()
        bench_node.remove_namespaces(["next", *pods])
    replumbed_s = cnf.report["restored_s"]
    figures = [Figure(f"memory of cnf, {count} pods", f"{megabytes[count]:.0f} MB") for count in COUNTS]
    shim_mb = packed_shim.peak_memory(shim) / (1 << 20)
    figures += [
        Figure("memory of the CNI executable", f"{shim_mb:.1f} MB"),
        Figure(f"{REPLUMBED} pods adopted by a restarted cnf", f"{adopted_s * 1000:.0f} ms"),
        Figure(f"{REPLUMBED} pods wired again by a replaced cnf", f"{replumbed_s * 1000:.0f} ms"),
        Figure("  from the start of the process until it serves", f"{cnf.started_s * 1000:.0f} ms"),
    ]
    raw = {"resident_mb": megabytes, "adopted_s": adopted_s, "adopted_start_s": adopted_start_s}
    return figures, {**raw, "shim_mb": shim_mb, "replumbed_s": replumbed_s, "replumbed_start_s": cnf.started_s}
