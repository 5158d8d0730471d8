"""ADD and DEL: the packed executable with cnf behind it beside Go's ``bridge`` with ``host-local``.

Both are started as a runtime starts them, and timed from the start of the process to its end. They take turns within
every round, each pod in a new namespace.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
import statistics
import time

import bench_figures
import bench_node
from bench_figures import Figure

ROUNDS = {1: 60, 8: 12, 32: 4}
"""Rounds by how many pods start at once."""
VERBS = ("ADD", "DEL")


@dataclasses.dataclass(frozen=True, slots=True)
class Took:
    """What one call took: wall and processor time of the process and its children."""

    wall_ms: float
    cpu_ms: float


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


Samples = dict[int, dict[str, dict[str, list[Took]]]]
"""By how many at once, verb and plugin."""


def call_all(plugin: Plugin, verb: str, pods: list[str]) -> list[Took]:
    """Make one call for every pod, all at once."""
    answer = os.memfd_create("answer")
    begun: dict[int, float] = {}
    took: list[Took] = []
    try:
        for pod in pods:
            now = time.monotonic()
            begun[plugin.start(verb, pod, answer)] = now
        while begun:
            process, status, usage = os.wait4(-1, 0)
            if process not in begun:
                raise SystemExit(f"bench: the serving process ended with status {status}")
            wall_ms = (time.monotonic() - begun.pop(process)) * 1000
            took.append(Took(wall_ms, (usage.ru_utime + usage.ru_stime) * 1000))
            if status:
                raise SystemExit(f"bench: {plugin.name} {verb} failed: {os.pread(answer, 4096, 0).decode()}")
    finally:
        os.close(answer)
    return took


def measure(plugins: tuple[Plugin, Plugin]) -> Samples:
    """Call both plugins by turns."""
    samples: Samples = {}
    numbers = itertools.count()
    for at_once, rounds in ROUNDS.items():
        found = samples[at_once] = {verb: {plugin.name: [] for plugin in plugins} for verb in VERBS}
        # The first round is not counted: files are read in, and `bridge` makes its bridge.
        for number in range(rounds + 1):
            for plugin in plugins if number % 2 else reversed(plugins):
                pods = [f"pod{next(numbers)}" for _ in range(at_once)]
                bench_node.make_namespaces(pods)
                took = {verb: call_all(plugin, verb, pods) for verb in VERBS}
                bench_node.remove_namespaces(pods)
                for verb in VERBS if number else ():
                    found[verb][plugin.name] += took[verb]
    return samples


def figures(samples: Samples, spent: bench_node.Spent) -> list[Figure]:
    """Make the lines of the table."""
    made = []
    for at_once, verb in itertools.product(ROUNDS, VERBS):
        ours, theirs = ([took.wall_ms for took in found] for found in samples[at_once][verb].values())
        made.append(bench_figures.compare(f"CNI {verb}, {at_once} at once, p50 / p90", ours, theirs))
    inside = [milliseconds for verb, milliseconds in spent.calls[: 2 * ROUNDS[1]] if verb == "ADD"]
    made.append(Figure("  inside cnf: ADD, 1 at once, p50 / p90", bench_figures.shown(inside)))
    ours_ms, theirs_ms = (
        sum(statistics.fmean(took.cpu_ms for took in samples[1][verb][name]) for verb in VERBS)
        for name in samples[1]["ADD"]
    )
    ours_ms += spent.cpu_ms / len(spent.calls) * len(VERBS)
    made.append(
        Figure("  processor time of ADD and DEL", f"{ours_ms:.1f} ms", f"{theirs_ms:.1f} ms", ours_ms / theirs_ms)
    )
    return made


def beside(**ipam: str) -> dict[str, object]:
    """Return the configuration of ``bridge`` that everything is measured beside; ``ipam`` is more of host-local's."""
    return {
        "cniVersion": "1.0.0",
        "name": "beside",
        "type": "bridge",
        "bridge": "beside0",
        "isGateway": True,
        "mtu": 1360,
        "ipam": {
            "type": "host-local",
            **ipam,
            "ranges": [[{"subnet": "10.128.0.0/16"}]],
            "routes": [{"dst": "10.112.0.0/12"}],
        },
    }


def bench(work: pathlib.Path, *, shim: pathlib.Path, bridge: pathlib.Path) -> tuple[list[Figure], object]:
    """Set up cnf and both plugins, and measure; return the figures and the samples."""
    ours = {"cniVersion": "1.0.0", "name": "fleetboard", "type": "fleetboard"}
    theirs = beside(dataDir=str(work / "host-local"))
    plugins = (
        Plugin("fleetboard", shim, _write(work / "fleetboard.conf", ours)),
        Plugin("bridge", bridge, _write(work / "bridge.conf", theirs)),
    )
    bench_node.make_namespaces(["cnf"])
    cnf = bench_node.Cnf.start(work / "state", "cnf")
    try:
        samples = measure(plugins)
        return figures(samples, cnf.spent()), _plain(samples)
    finally:
        cnf.kill()
        bench_node.remove_namespaces(["cnf"])


def _plain(samples: Samples) -> object:
    return {
        f"{at_once} {verb} {name}": [dataclasses.astuple(took) for took in found]
        for at_once, verbs in samples.items()
        for verb, plugins in verbs.items()
        for name, found in plugins.items()
    }


def _write(path: pathlib.Path, config: object) -> pathlib.Path:
    path.write_text(json.dumps(config))
    return path
