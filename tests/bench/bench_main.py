"""``make bench``: measures, prints one table, writes build/bench/*.json. Called by hack/bench.

What needs the lab is measured first, and the rest in namespaces of its own, where this program starts again.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile

import bench_cni
import bench_dns
import bench_fanout
import bench_figures
import bench_kubelet
import bench_latency
import bench_memory
import bench_node
import bench_vips
import packed_shim

ON_LAB = ("kubelet", "latency", "fanout")
PARTS = (*ON_LAB, "cni", "dns", "memory", "vip")
FOLDER = pathlib.Path(__file__).parents[2] / "build" / "bench"


def main() -> None:
    """Measure what was asked for, all by default."""
    parser = argparse.ArgumentParser(prog="hack/bench")
    parser.add_argument("--bridge", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--coredns", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--kube-proxy", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--part", action="append", choices=PARTS)
    asked = parser.parse_args()
    parts = asked.part or list(PARTS)
    before = os.environ.setdefault("FLEETBOARD_BENCH_BEFORE", bench_figures.machine())
    if not bench_node.isolated():
        for part in ON_LAB:
            if part in parts:
                measure(part, asked)
        if not set(parts) <= set(ON_LAB):
            packed_shim.pack()  # here: there is no way to the registries from inside
            bench_node.isolate()
    else:
        bench_node.prepare()
        for part in PARTS:
            if part in parts and part not in ON_LAB:
                measure(part, asked)
    print(f"{before} before, {bench_figures.load()} after")
    print(bench_figures.render([figure for part in parts for figure in bench_figures.saved(FOLDER, part)]))


def measure(part: str, asked: argparse.Namespace) -> None:
    """Measure one part and write down what was found."""
    print(f"bench: {part}", file=sys.stderr)
    bench_figures.warm_up()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        work = pathlib.Path(name)
        match part:
            case "kubelet":
                try:
                    figures, samples = bench_kubelet.bench(asked.bridge)
                except bench_kubelet.NoLabError as err:
                    raise SystemExit(f"bench: the lab with Fleetboard on it is needed: {err}") from err
            case "latency":
                figures, samples = bench_latency.bench()
            case "fanout":
                figures, samples = bench_fanout.bench()
            case "cni":
                shim = packed_shim.install(packed_shim.pack(), work / "bin")
                figures, samples = bench_cni.bench(work, shim=shim, bridge=asked.bridge)
            case "dns":
                figures, samples = bench_dns.bench(work, executable=asked.coredns)
            case "vip":
                figures, samples = bench_vips.bench(work, kube_proxy=asked.kube_proxy)
            case _:
                shim = packed_shim.install(packed_shim.pack(), work / "bin")
                figures, samples = bench_memory.bench(work, shim=shim)
    bench_figures.save(FOLDER, part, figures, samples)


if __name__ == "__main__":
    main()
