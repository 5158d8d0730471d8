"""10 000 services loaded and one of them changed: cnf beside kube-proxy in its nftables mode, from the same API.

Both are processes in a network namespace of their own, and are observed from outside. The kernel counts every
transaction of nftables: the last one of a load is its end, and the first one after a change puts it in force.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import pathlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import bench_figures
import bench_node
import bench_vip_api
from bench_figures import Figure

from cnf.netlink import wire
from cnf.vip import transaction

SERVICES = 10_000
CHANGES = 6
PORT = 18080
_GET_GENERATION = 10 << 8 | 16
_CLONE_NEWNET = 0x40000000
_QUIET_S = 4.0
_LIMIT_S = 180.0
_PAUSE_S = 2.5
"""Between changes: kube-proxy batches what comes within a second of its last work, cnf pauses for up to two."""
_HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What one run of one of the two took."""

    load_s: float
    peak_mb: float
    resident_mb: float
    changes_ms: list[float]
    output: str
    """Its standard output."""


def bench(work: pathlib.Path, *, kube_proxy: pathlib.Path) -> tuple[list[Figure], object]:
    """Load and change in turns: kube-proxy takes minutes, so it runs once, between two runs of cnf."""
    cnf = [sys.executable, str(_HERE / "bench_vip_cnf.py"), f"http://127.0.0.1:{PORT}"]
    first, theirs, second = run("cnf1", cnf), [run("proxy", _kube_proxy(work, kube_proxy))], run("cnf2", cnf)
    ours = [first, second]
    changes = [[change for one in side for change in one.changes_ms] for side in (ours, theirs)]

    def compared(what: str, unit: str, of: Callable[[Run], float]) -> Figure:
        mine, other = (statistics.mean(map(of, side)) for side in (ours, theirs))
        return Figure(what, f"{mine:.1f} {unit}", f"{other:.1f} {unit}", mine / other)

    figures = [
        compared(f"{SERVICES} services: from the process' start until the kernel has all", "s", lambda one: one.load_s),
        Figure(
            "  of these, from known services to the kernel", " and ".join(f"{float(one.output):.1f} s" for one in ours)
        ),
        compared("  most memory meanwhile, nft included", "MB", lambda one: one.peak_mb),
        compared("  memory afterwards", "MB", lambda one: one.resident_mb),
        bench_figures.compare("  one endpoint's change until it is in force", *changes),
    ]
    return figures, {
        "ours": [dataclasses.asdict(one) for one in ours],
        "theirs": [dataclasses.asdict(o) for o in theirs],
    }


def run(name: str, command: list[str]) -> Run:
    """Load all services, then change some, one at a time."""
    bench_node.make_namespaces([name])
    bench_node.run("ip", "-n", name, "link", "set", "lo", "up")
    bench_node.run("ip", "-n", name, "addr", "add", "192.0.2.1/32", "dev", "lo")
    inside = ["ip", "netns", "exec", name]
    try:
        with serving(inside) as change, Generations.watched(name) as generations:
            began = time.monotonic()
            process = subprocess.Popen([*inside, *command], stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
            memory = Memory(process.pid)
            try:
                load_s = generations.settled(process) - began
                peak_mb, resident_mb = memory.peak_mb, memory.now_mb()
                memory.stop()
                _check(inside)
                changes = [_change(change, generations, number) for number in range(4, 4 + 10 * CHANGES, 10)]
            finally:
                memory.stop()
                process.kill()
                output, _ = process.communicate(timeout=30)
        return Run(load_s, peak_mb, resident_mb, changes, output)
    finally:
        bench_node.remove_namespaces([name])


def _check(inside: list[str]) -> None:
    ruleset = subprocess.run(
        [*inside, "nft", "list", "ruleset"], capture_output=True, text=True, timeout=120, check=True
    )
    last = f"{bench_vip_api.VIPS[SERVICES]} ", f"{bench_vip_api.cluster_address(SERVICES - 1)} "
    if not any(address in ruleset.stdout for address in last):
        raise SystemExit("bench: the last service is not in the kernel")


def _change(change: Callable[[int], None], generations: Generations, number: int) -> float:
    time.sleep(_PAUSE_S)
    began = time.monotonic()
    change(number)
    return (generations.after(began) - began) * 1000


@contextlib.contextmanager
def serving(inside: list[str]) -> Iterator[Callable[[int], None]]:
    """Serve the API; yield a function that changes one service."""
    command = [*inside, sys.executable, str(_HERE / "bench_vip_api.py"), str(PORT), str(SERVICES)]
    api = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert api.stdin is not None
    assert api.stdout is not None

    def change(number: int) -> None:
        assert api.stdin is not None
        api.stdin.write(f"{number}\n")
        api.stdin.flush()

    try:
        api.stdout.readline()
        yield change
    finally:
        api.kill()
        api.wait(30)


class Generations:
    """Times at which a namespace's nftables changed, polled every half millisecond."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._stop = threading.Event()
        self._times: list[float] = []
        self._thread = threading.Thread(target=self._watch)

    @classmethod
    @contextlib.contextmanager
    def watched(cls, namespace: str) -> Iterator[Generations]:
        made = cls(namespace)
        made._thread.start()
        try:
            yield made
        finally:
            made._stop.set()
            made._thread.join(10)

    def settled(self, process: subprocess.Popen[str]) -> float:
        """Return the time of the last change, once none has come for a while."""
        deadline = time.monotonic() + _LIMIT_S
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
            # The first ones are tables without services.
            if len(self._times) > 1 and time.monotonic() - self._times[-1] > _QUIET_S:
                return self._times[-1]
        raise SystemExit(f"bench: {process.args!r} ended or had not loaded its services within {_LIMIT_S:g} s")

    def after(self, began: float) -> float:
        """Return the time of the first change after ``began``."""
        deadline = time.monotonic() + _LIMIT_S
        while time.monotonic() < deadline:
            if self._times[-1] > began:
                return next(found for found in self._times if found > began)
            time.sleep(0.0005)
        raise SystemExit("bench: a change was never put in force")

    def _watch(self) -> None:
        question = wire.Message(_GET_GENERATION, wire.Flag.REQUEST, bytes(4), "ask for the generation")
        with pathlib.Path("/run/netns", self._namespace).open() as there:
            if ctypes.CDLL(None).setns(there.fileno(), _CLONE_NEWNET):
                raise SystemExit(f"bench: namespace {self._namespace} can't be entered")
        with transaction.connect() as link:  # this thread is there to stay
            last = b""
            while not self._stop.wait(0.0005):
                found = wire.attributes(link.ask(question).pop().body[4:]).get(1, b"")
                if found != last and last:
                    self._times.append(time.monotonic())
                last = found


class Memory:
    """Resident memory of a process and of its children, polled every 20 ms."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self.peak_mb = 0.0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def now_mb(self) -> float:
        """Return the current resident memory."""
        return sum(map(_resident_mb, [self._pid, *_children(self._pid)]))

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak_mb = max(self.peak_mb, self.now_mb())


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return [one for child in found for one in (child, *_children(child))]


def _resident_mb(pid: int) -> float:
    with contextlib.suppress(OSError, StopIteration):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024
    return 0.0


def _kube_proxy(work: pathlib.Path, executable: pathlib.Path) -> list[str]:
    config = work / "kubeconfig"
    cluster = f"{{name: bench, cluster: {{server: 'http://127.0.0.1:{PORT}'}}}}"
    context = "{name: bench, context: {cluster: bench, user: bench}}"
    config.write_text(
        f"{{apiVersion: v1, kind: Config, current-context: bench, clusters: [{cluster}], "
        f"contexts: [{context}], users: [{{name: bench, user: {{}}}}]}}\n"
    )
    return [
        *(
            str(executable),
            "--proxy-mode=nftables",
            f"--kubeconfig={config}",
            f"--hostname-override={bench_vip_api.NODE}",
        ),
        *(
            "--kube-api-content-type=application/json",
            "--detect-local-mode=ClusterCIDR",
            "--cluster-cidr=10.244.0.0/16",
        ),
        # What is the whole machine's is left alone.
        *("--conntrack-max-per-core=0", "--conntrack-min=0", "--conntrack-tcp-timeout-established=0s"),
        *("--conntrack-tcp-timeout-close-wait=0s", "--healthz-bind-address=127.0.0.1:10256", "-v=0"),
    ]
