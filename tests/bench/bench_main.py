"""``make bench``: measures, prints one table, writes build/bench/*.json. Called by hack/bench."""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile

import bench_cni
import bench_dns
import bench_figures
import bench_memory
import bench_node
import packed_shim

PARTS = ("cni", "dns", "memory")
FOLDER = pathlib.Path(__file__).parents[2] / "build" / "bench"


def main() -> None:
    """Measure what was asked for, all by default."""
    parser = argparse.ArgumentParser(prog="hack/bench")
    parser.add_argument("--bridge", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--coredns", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--part", action="append", choices=PARTS)
    asked = parser.parse_args()
    bundle = packed_shim.pack()
    bench_node.isolate()
    FOLDER.mkdir(parents=True, exist_ok=True)
    found: list[bench_figures.Figure] = []
    before = bench_figures.machine()
    for part in asked.part or PARTS:
        print(f"bench: {part}", file=sys.stderr)
        bench_figures.warm_up()
        with tempfile.TemporaryDirectory(dir=FOLDER) as name:
            work = pathlib.Path(name)
            match part:
                case "cni":
                    shim = packed_shim.install(bundle, work / "bin")
                    figures, samples = bench_cni.bench(work, shim=shim, bridge=asked.bridge)
                case "dns":
                    figures, samples = bench_dns.bench(work, executable=asked.coredns)
                case _:
                    figures, samples = bench_memory.bench(work)
        bench_figures.save(FOLDER, part, figures, samples)
        found += figures
    print(f"{before} before, {bench_figures.load()} after")
    print(bench_figures.render(found))


if __name__ == "__main__":
    main()
