"""ADD and DEL: the packed executable with cnf behind it beside Go's ``bridge`` with ``host-local``.

Both are started as a runtime starts them and timed from the start of the process to its end. One invariant: they take
turns within every round, each pod in a namespace that was never used.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
import time

import bench_figures
import bench_node
from bench_figures import Figure

ROUNDS = {1: 60, 8: 12, 32: 4}
"""Rounds by how many pods start at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plugin:
    """A CNI plugin and its configuration."""

    name: str
    executable: pathlib.Path
    config: pathlib.Path

    def start(self, verb: str, pod: str, answer: int) -> int:
        """Start one call; return the process' id."""
        env = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": f"/run/netns/{pod}",
            "CNI_IFNAME": "net1",
            "CNI_PATH": str(self.executable.parent),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID=u-{pod}",
            "PATH": os.environ["PATH"],
        }
        files = [
            (os.POSIX_SPAWN_OPEN, 0, str(self.config), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, answer, 1),
        ]
        return os.posix_spawn(self.executable, [str(self.executable)], env, file_actions=files)


def call_all(plugin: Plugin, verb: str, pods: list[str]) -> list[float]:
    """Make one call for every pod, all at once; return each one's milliseconds."""
    answer = os.memfd_create("answer")
    begun: dict[int, float] = {}
    took: list[float] = []
    try:
        for pod in pods:
            now = time.monotonic()
            begun[plugin.start(verb, pod, answer)] = now
        while begun:
            process, status = os.waitpid(-1, 0)
            if process not in begun:
                raise SystemExit(f"bench: the serving process ended with status {status}")
            took.append((time.monotonic() - begun.pop(process)) * 1000)
            if status:
                raise SystemExit(f"bench: {plugin.name} {verb} failed: {os.pread(answer, 4096, 0).decode()}")
    finally:
        os.close(answer)
    return took


def measure(cnf: bench_node.Cnf, plugins: tuple[Plugin, Plugin]) -> tuple[list[Figure], object]:
    """Measure both plugins by turns; return the figures and the samples."""
    samples: dict[int, dict[str, dict[str, list[float]]]] = {}
    numbers = itertools.count()
    for at_once, rounds in ROUNDS.items():
        found = samples[at_once] = {verb: {plugin.name: [] for plugin in plugins} for verb in ("ADD", "DEL")}
        # The first round is not counted: files are read in, and `bridge` makes its bridge.
        for number in range(rounds + 1):
            for plugin in plugins if number % 2 else reversed(plugins):
                pods = [f"pod{next(numbers)}" for _ in range(at_once)]
                bench_node.make_namespaces(pods)
                took = {verb: call_all(plugin, verb, pods) for verb in ("ADD", "DEL")}
                bench_node.remove_namespaces(pods)
                for verb in took if number else ():
                    found[verb][plugin.name] += took[verb]
    figures = []
    for at_once, verb in itertools.product(ROUNDS, ("ADD", "DEL")):
        ours, theirs = (samples[at_once][verb][plugin.name] for plugin in plugins)
        figures.append(bench_figures.compare(f"CNI {verb}, {at_once} at once, p50 / p90", ours, theirs))
    inside = [milliseconds for verb, milliseconds in cnf.calls()[: 2 * ROUNDS[1]] if verb == "ADD"]
    figures.append(Figure("  of it inside cnf, 1 at once, p50", f"{bench_figures.percentile(inside, 0.5):.1f} ms"))
    return figures, samples


def bench(work: pathlib.Path, *, shim: pathlib.Path, bridge: pathlib.Path) -> tuple[list[Figure], object]:
    """Set up cnf and both plugins, and measure."""
    ours = {"cniVersion": "1.0.0", "name": "fleetboard", "type": "fleetboard"}
    theirs = {
        "cniVersion": "1.0.0",
        "name": "beside",
        "type": "bridge",
        "bridge": "beside0",
        "isGateway": True,
        "mtu": 1360,
        "ipam": {
            "type": "host-local",
            "dataDir": str(work / "host-local"),
            "ranges": [[{"subnet": "10.128.0.0/16"}]],
            "routes": [{"dst": "10.112.0.0/12"}],
        },
    }
    plugins = (
        Plugin("fleetboard", shim, _write(work / "fleetboard.conf", ours)),
        Plugin("bridge", bridge, _write(work / "bridge.conf", theirs)),
    )
    bench_node.make_namespaces(["cnf"])
    cnf = bench_node.Cnf.start(work / "state", "cnf")
    try:
        return measure(cnf, plugins)
    finally:
        cnf.kill()
        bench_node.remove_namespaces(["cnf"])


def _write(path: pathlib.Path, config: object) -> pathlib.Path:
    path.write_text(json.dumps(config))
    return path
