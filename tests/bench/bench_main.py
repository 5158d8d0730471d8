"""``make bench``: measures, prints one table, writes build/bench/*.json. Called by hack/bench."""

from __future__ import annotations

import argparse
import pathlib
import tempfile

import bench_cni
import bench_figures
import bench_node
import packed_shim

PARTS = ("cni",)
ROOT = pathlib.Path(__file__).parents[2]


def main() -> None:
    """Measure the parts that were asked for, all by default."""
    parser = argparse.ArgumentParser(prog="hack/bench")
    parser.add_argument("--bridge", type=pathlib.Path, required=True)
    parser.add_argument("--coredns", type=pathlib.Path, required=True)
    parser.add_argument("--part", action="append", choices=PARTS)
    asked = parser.parse_args()
    bundle = packed_shim.pack()
    bench_node.isolate()
    folder = ROOT / "build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    found: list[bench_figures.Figure] = []
    before = bench_figures.machine()
    for part in asked.part or PARTS:
        bench_figures.warm_up()
        with tempfile.TemporaryDirectory(dir=folder) as name:
            work = pathlib.Path(name)
            shim = packed_shim.install(bundle, work / "bin")
            figures, raw = bench_cni.bench(work, shim=shim, bridge=asked.bridge)
        bench_figures.save(folder, part, figures, raw)
        found += figures
    print(f"{before} before, {bench_figures.machine().rpartition('load ')[2]} after")
    print(bench_figures.render(found))


if __name__ == "__main__":
    main()
