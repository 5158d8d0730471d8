"""A node to measure on: namespaces of its own for the host, cnf and pods, and the process that serves.

All of it is in network and mount namespaces of the bench (``isolate``): nothing of the machine is touched, and nothing
stays.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

_INSIDE = "FLEETBOARD_BENCH_ISOLATED"
_HERE = pathlib.Path(__file__).parent


def isolated() -> bool:
    """Return whether this process has namespaces of its own."""
    return os.environ.get(_INSIDE) == "1"


def isolate() -> None:
    """Start again in network and mount namespaces of the bench's own."""
    os.environ[_INSIDE] = "1"
    command = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv]
    os.execvp(command[0], command)


def prepare() -> None:
    """Make an empty /run, and ``lo``."""
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    for folder in ("netns", "fleetboard/del"):
        pathlib.Path("/run", folder).mkdir(parents=True)
    run("ip", "link", "set", "lo", "up")


def run(*command: str) -> None:
    """Run a command that has to succeed."""
    subprocess.run(command, check=True, timeout=120)


def make_namespaces(names: list[str]) -> None:
    """Make network namespaces."""
    _batch("add", names)


def remove_namespaces(names: list[str]) -> None:
    """Remove network namespaces."""
    _batch("del", names)


def _batch(verb: str, names: list[str]) -> None:
    lines = "".join(f"netns {verb} {name}\n" for name in names)
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True, timeout=120)


@dataclasses.dataclass(frozen=True, slots=True)
class Spent:
    """What calls took inside cnf: verb and milliseconds of each, and processor time of all."""

    calls: list[tuple[str, float]]
    cpu_ms: float


@dataclasses.dataclass(slots=True)
class Cnf:
    """A running CNI service, and what it reported at its start."""

    process: subprocess.Popen[str]
    report: dict[str, Any]
    started_s: float
    """From the start of the process until it served."""

    @classmethod
    def start(cls, state: pathlib.Path, node_netns: str) -> Cnf:
        """Start one in namespace ``node_netns`` and wait until it serves."""
        begun = time.monotonic()
        command = [sys.executable, str(_HERE / "bench_cnf.py"), str(state), f"/run/netns/{node_netns}"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        report = json.loads(process.stdout.readline())
        return cls(process, report, time.monotonic() - begun)

    def spent(self) -> Spent:
        """Return what its calls took so far, as the process measured them."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("spent\n")
        self.process.stdin.flush()
        spent = json.loads(self.process.stdout.readline())
        return Spent([(verb, milliseconds) for verb, milliseconds in spent["calls"]], spent["cpu_ms"])

    def resident_mb(self) -> float:
        """Return the process' resident memory."""
        self.spent()  # answered once everything is loaded
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return int(kilobytes) / 1024

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait(timeout=30)
