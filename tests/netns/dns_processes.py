"""crossdns' answering processes, in a network namespace of their own."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import ipaddress
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator

from crossdns.server import feed, workers
from crossdns.zone import encode, table, zone
from fleetboard.model import fleet, names
from fleetboard.model.keys import ServiceKey
from fleetboard.model.reach import Reach

PORT = 5353
OBSERVE_PORT = 9464
SERVER = "crossdns.fleetboard-system.svc.cluster.local"


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Move this thread, and what it starts, into a new namespace with nothing but loopback."""
    subprocess.run(["ip", "netns", "add", name], check=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    entered = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        _enter(entered)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        _enter(before)
        os.close(before)
        os.close(entered)
        subprocess.run(["ip", "netns", "del", name], check=True)


def _enter(fd: int) -> None:
    # os.setns is Python 3.12's.
    if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


def make_table() -> table.Table:
    """Make a zone of one virtual address, ``web``, and one name of 600 endpoints, ``large``."""
    made = table.Table(server=SERVER)
    spec = fleet.FleetServiceSpec(namespace="shop", name="web", vips=["10.112.0.9"])
    key = ServiceKey("shop", "web")
    made.put(key, zone.service_records(key, fleet.FleetService(spec=spec), [], Reach()))
    found = tuple(ipaddress.ip_address(f"10.112.{4 + n // 250}.{n % 250 + 1}") for n in range(600))
    made.put(ServiceKey("shop", "large"), {"large.shop.svc": zone.Records(addresses=found)})
    return made


def publish(pool: workers.WorkerPool, changes: Iterable[table.ZoneChange], *, snapshot: bool = True) -> None:
    """Give the processes a zone, or a change to it."""
    soa = {encode.name(name): encode.soa_content(server="ns", zone_name=name, serial=1) for name in names.ZONES}
    pool.publish(lambda generation: feed.frames(changes, soa=soa, generation=generation, snapshot=snapshot))


@contextlib.contextmanager
def running(served: table.Table, *, udp_processes: int = 1) -> Iterator[workers.WorkerPool]:
    """Run the processes and wait until they serve the zone."""
    made = workers.WorkerPool(port=PORT, udp_processes=udp_processes)
    try:
        publish(made, served.snapshot())
        deadline = time.monotonic() + 60
        while not made.served():
            assert time.monotonic() < deadline, "no zone after a minute"
            time.sleep(0.01)
        yield made
    finally:
        made.close()


def resident_kb(pid: int) -> int:
    """Return how much memory a process has, pages it shares with others counted in part."""
    return _memory(pid, "Pss")


def own_kb(pid: int) -> int:
    """Return how much memory a process made itself, which does not change when another process ends."""
    return _memory(pid, "Anonymous")


def _memory(pid: int, kind: str) -> int:
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(rf"^{kind}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def descriptors(pid: int) -> int:
    """Return how many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@dataclasses.dataclass
class Pod:
    """crossdns as it runs in a pod, all its processes."""

    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, url: str, state: pathlib.Path, *, drain_s: float = 0) -> Pod:
        """Start it with the API at ``url``."""
        script = pathlib.Path(__file__).with_name("crossdns_pod.py")
        env = {**os.environ, "DNS_PORT": str(PORT), "STATE_DIR": str(state), "DNS_DRAIN_S": str(drain_s)}
        return cls(subprocess.Popen([sys.executable, str(script), url], env=env))

    def wait_names(self, count: int, *, within_s: float = 60) -> None:
        """Wait until it is ready and has that many names below each zone."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self.ready() and re.search(rf"^fleetboard_dns_names {count}\.0$", _read("metrics"), re.MULTILINE):
                return
            time.sleep(0.1)
        found = re.findall("fleetboard_dns_names.*", _read("metrics"))
        raise AssertionError(f"not {count} names after {within_s} s: {found}")

    def ready(self) -> bool:
        """Return the answer that kubelet's probe gets."""
        return bool(_read("readyz"))

    def memory_mb(self) -> float:
        """Return the memory of all its processes."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sum(resident_kb(pid) for pid in (self.process.pid, *map(int, children))) / 1024

    def kill(self) -> None:
        """End it as the kernel does that is out of memory; the answering processes go with it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def terminate(self) -> None:
        """End it by SIGTERM, as kubelet does."""
        self.process.terminate()

    def end(self) -> None:
        """End it and wait for that."""
        self.process.terminate()
        assert self.process.wait(90) == 0


def _read(page: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{OBSERVE_PORT}/{page}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
