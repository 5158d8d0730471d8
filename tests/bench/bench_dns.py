"""Names: crossdns beside CoreDNS with its ``file`` plugin, the same names, one core for each and another for dnsperf.

One invariant: the two are never asked at the same time, and take turns.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import bench_crossdns
import bench_figures
import dnslib
from bench_figures import Figure

ROUNDS = 3
SECONDS = 3
STEADY_QPS = 2000
"""Far below what either can: the delay is that of answering, not of waiting in a queue."""
PORTS = {"crossdns": 5301, "CoreDNS": 5302}
ZONE = "clusterset.local"


def names() -> list[str]:
    """Return the names asked for."""
    return [f"web{number}.shop.svc.{ZONE}" for number in range(bench_crossdns.SERVICES)]


@contextlib.contextmanager
def crossdns(core: int) -> Iterator[None]:
    """Run crossdns on one core."""
    script = str(pathlib.Path(bench_crossdns.__file__))
    command = ["taskset", "-c", str(core), sys.executable, script, str(PORTS["crossdns"])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        wait_for(PORTS["crossdns"])
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(20)


@contextlib.contextmanager
def coredns(core: int, *, executable: pathlib.Path, work: pathlib.Path) -> Iterator[None]:
    """Run CoreDNS on one core."""
    lines = ["@ 5 IN SOA ns admin 1 7200 1800 86400 5", "@ 5 IN NS ns", "ns 5 IN A 127.0.0.1"]
    lines += [f"web{n}.shop.svc 5 IN A {bench_crossdns.address(n)}" for n in range(bench_crossdns.SERVICES)]
    zone = work / "zone"
    zone.write_text(f"$ORIGIN {ZONE}.\n" + "\n".join(lines) + "\n")
    corefile = work / "Corefile"
    corefile.write_text(f"{ZONE}:{PORTS['CoreDNS']} {{\n  bind 127.0.0.1\n  file {zone}\n}}\n")
    command = ["taskset", "-c", str(core), str(executable), "-quiet", "-conf", str(corefile)]
    process = subprocess.Popen(command, env={"GOMAXPROCS": "1"}, stdout=subprocess.DEVNULL)
    try:
        wait_for(PORTS["CoreDNS"])
        yield
    finally:
        process.terminate()
        process.wait(20)


def wait_for(port: int) -> None:
    """Wait until somebody answers at ``port``."""
    query = dnslib.DNSRecord.question(names()[0])
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            query.send("127.0.0.1", port, timeout=0.2)
            return
    raise SystemExit(f"bench: nobody answers at port {port}")


def ask(server: str, queries: pathlib.Path, core: int, *options: str) -> str:
    """Ask one server for some seconds; return what dnsperf says."""
    where = ["-s", "127.0.0.1", "-p", str(PORTS[server]), "-d", str(queries), "-l", str(SECONDS)]
    done = subprocess.run(
        ["taskset", "-c", str(core), "dnsperf", *where, *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answered = re.search(r"NOERROR \d+ \((\d+\.\d+)%\)", done.stdout)
    if answered is None or float(answered[1]) < 99:
        raise SystemExit(f"bench: {server} does not answer: {done.stdout[-2000:]}{done.stderr}")
    return done.stdout


def rate(said: str) -> float:
    """Return answers a second."""
    found = re.search(r"Queries per second:\s+([\d.]+)", said)
    assert found is not None
    return float(found[1])


def delays(said: str) -> list[float]:
    """Return the milliseconds of every answer, from dnsperf's verbose lines."""
    return [float(seconds) * 1000 for seconds in re.findall(r"^> \S+ \S+ A ([\d.]+)", said, re.MULTILINE)]


def bench(work: pathlib.Path, *, executable: pathlib.Path) -> tuple[list[Figure], object]:
    """Run both and ask them by turns; return the figures and the samples."""
    queries = work / "queries"
    queries.write_text("".join(f"{name} A\n" for name in names()))
    rates: dict[str, list[float]] = {server: [] for server in PORTS}
    took: dict[str, list[float]] = {server: [] for server in PORTS}
    with crossdns(0), coredns(0, executable=executable, work=work):
        for number in range(ROUNDS + 1):
            for server in PORTS if number % 2 else reversed(PORTS):
                said = ask(server, queries, 1, "-q", "100")
                # The first round is not counted.
                rates[server] += [rate(said)] if number else []
                said = ask(server, queries, 1, "-Q", str(STEADY_QPS), "-v") if number else ""
                took[server] += delays(said)
    ours, theirs = (statistics.median(rates[server]) for server in PORTS)
    slow = [bench_figures.percentile(took[server], 0.99) for server in PORTS]
    return [
        Figure("DNS, one core, answers a second", f"{ours:.0f}", f"{theirs:.0f}", ours / theirs),
        Figure(f"DNS, p99 at {STEADY_QPS} a second", f"{slow[0]:.2f} ms", f"{slow[1]:.2f} ms", slow[0] / slow[1]),
    ], {"rates": rates, "p99": slow}
