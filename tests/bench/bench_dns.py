"""Names: crossdns beside CoreDNS with its ``kubernetes`` plugin, the same names from the same API.

Each has one core, all its processes and the reading of the API included; dnsperf and the API have the other.

Invariant: the two are never asked at the same time, and take turns.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import bench_api
import bench_figures
import dnslib
from bench_figures import Figure

ROUNDS = 3
SECONDS = 3
STEADY_ROUNDS, STEADY_S = 8, 2
"""Many short turns: the slowest answers of a second are often the machine's doing."""
STEADY_QPS = 2000
"""Far below what either can: the delay is that of answering, not of waiting in a queue."""
CHANGES_S = 10.0
"""Within how many seconds each of the 3000 slices is written again."""
PORTS = {"crossdns": 5301, "CoreDNS": 5302}
OBSERVE_PORT = 5303
ZONE = "clusterset.local"
LAST = f"pod-0.c2.heads{bench_api.HEADLESS - 1}.{bench_api.NAMESPACE}.svc.{ZONE}"
"""Once it is there, everything is; CoreDNS has it without the cluster."""


class Api:
    """The API that both read."""

    def __init__(self, core: int) -> None:
        command = ["taskset", "-c", str(core), sys.executable, bench_api.__file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def change(self, seconds: float) -> None:
        """Begin to write every slice again."""
        assert self._process.stdin is not None
        print(f"change {seconds}", file=self._process.stdin, flush=True)

    def changed(self) -> None:
        """Wait until that is done."""
        self._read()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(20)


@contextlib.contextmanager
def crossdns(core: int, *, api: Api, work: pathlib.Path) -> Iterator[None]:
    """Run crossdns as it runs in a pod, on one core."""
    script = pathlib.Path(__file__).parents[1] / "netns" / "crossdns_pod.py"
    settings = {"DNS_PORT": str(PORTS["crossdns"]), "OBSERVE_PORT": str(OBSERVE_PORT), "STATE_DIR": str(work)}
    process = subprocess.Popen(
        ["taskset", "-c", str(core), sys.executable, str(script), api.url],
        env={**os.environ, **settings, "DNS_DRAIN_S": "0", "LOG_LEVEL": "error"},
    )
    with ending(process):
        wait_for(PORTS["crossdns"], LAST)
        yield


@contextlib.contextmanager
def coredns(core: int, *, executable: pathlib.Path, api: Api, work: pathlib.Path) -> Iterator[None]:
    """Run CoreDNS on one core."""
    corefile = work / "Corefile"
    plugin = f"kubernetes {ZONE} {{\n    endpoint {api.url}\n    ttl 5\n  }}"
    corefile.write_text(f"{ZONE}:{PORTS['CoreDNS']} {{\n  bind 127.0.0.1\n  {plugin}\n}}\n")
    command = ["taskset", "-c", str(core), str(executable), "-quiet", "-conf", str(corefile)]
    process = subprocess.Popen(command, env={"GOMAXPROCS": "1"}, stdout=subprocess.DEVNULL)
    with ending(process):
        wait_for(PORTS["CoreDNS"], LAST.replace(".c2.", "."))
        yield


@contextlib.contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a process at the end."""
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def wait_for(port: int, name: str) -> None:
    """Wait until ``name`` has an address at ``port``."""
    query = dnslib.DNSRecord.question(name)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if dnslib.DNSRecord.parse(query.send("127.0.0.1", port, timeout=0.5)).rr:
                return
        time.sleep(0.2)
    raise SystemExit(f"bench: port {port} has no answer for {name}")


def ask(server: str, queries: pathlib.Path, core: int, *options: str, seconds: float = SECONDS) -> str:
    """Ask one server for some seconds; return what dnsperf says."""
    where = ["-s", "127.0.0.1", "-p", str(PORTS[server]), "-d", str(queries), "-l", str(round(seconds))]
    done = subprocess.run(
        ["taskset", "-c", str(core), "dnsperf", *where, *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answered = re.search(r"NOERROR \d+ \((\d+\.\d+)%\)", done.stdout)
    if answered is None or float(answered[1]) < 99.9:
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


def steady(server: str, queries: pathlib.Path, *, seconds: float) -> list[float]:
    """Ask at a steady rate and return the milliseconds of every answer."""
    return delays(ask(server, queries, 1, "-Q", str(STEADY_QPS), "-v", seconds=seconds))


def bench(work: pathlib.Path, *, executable: pathlib.Path) -> tuple[list[Figure], object]:
    """Run both and ask them by turns; return the figures and the samples."""
    queries = work / "queries"
    order = sorted(range(bench_api.SERVICES), key=lambda number: number * 7919 % bench_api.SERVICES)
    queries.write_text("".join(f"web{number}.{bench_api.NAMESPACE}.svc.{ZONE} A\n" for number in order))
    rates: dict[str, list[float]] = {server: [] for server in PORTS}
    rest: dict[str, list[float]] = {server: [] for server in PORTS}
    api = Api(1)
    try:
        with crossdns(0, api=api, work=work):
            with coredns(0, executable=executable, api=api, work=work):
                for number in range(ROUNDS + 1):
                    for server in PORTS if number % 2 else reversed(PORTS):
                        said = ask(server, queries, 1, "-q", "100")
                        # The first round is not counted: every name was asked for by then.
                        rates[server] += [rate(said)] if number else []
                for number in range(STEADY_ROUNDS):
                    for server in PORTS if number % 2 else reversed(PORTS):
                        rest[server] += steady(server, queries, seconds=STEADY_S)
            # Alone: CoreDNS would read the changes on the same core.
            still = steady("crossdns", queries, seconds=CHANGES_S)
            api.change(CHANGES_S)
            during = steady("crossdns", queries, seconds=CHANGES_S)
            api.changed()
            still += steady("crossdns", queries, seconds=CHANGES_S)
    finally:
        api.close()
    ours, theirs = (statistics.median(rates[server]) for server in PORTS)
    slow = [bench_figures.percentile(rest[server], 0.99) for server in PORTS]
    changing = [bench_figures.percentile(samples, 0.99) for samples in (during, still)]
    slices = bench_api.HEADLESS * len(bench_api.CLUSTERS)
    return [
        Figure("DNS, one core, answers a second", f"{ours:.0f}", f"{theirs:.0f}", ours / theirs),
        Figure(f"DNS, p99 at {STEADY_QPS} a second", f"{slow[0]:.2f} ms", f"{slow[1]:.2f} ms", slow[0] / slow[1]),
        Figure(
            f"DNS, p99 while {slices} slices change in {CHANGES_S:.0f} s, beside none changing",
            f"{changing[0]:.2f} ms",
            f"{changing[1]:.2f} ms",
            changing[0] / changing[1],
        ),
    ], {"rates": rates, "p99": slow, "p99 while slices change, and while not": changing}
