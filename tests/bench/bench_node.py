"""A node to measure on: namespaces of its own for the host, cnf and pods, and the process that serves.

One invariant: all of it is in a network and a mount namespace of the bench (``isolate``), so nothing of the machine is
touched, and nothing stays.
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
    """Say whether this process has namespaces of its own."""
    return os.environ.get(_INSIDE) == "1"


def isolate() -> None:
    """Begin anew in a network and a mount namespace of our own."""
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
    """What calls took inside cnf: verb and milliseconds of each, and the processor time of all."""

    calls: list[tuple[str, float]]
    cpu_ms: float


@dataclasses.dataclass(slots=True)
class Cnf:
    """A running plane and what it said when it began."""

    process: subprocess.Popen[str]
    said: dict[str, Any]
    started_s: float
    """From the start of the process until it served."""

    @classmethod
    def start(cls, state: pathlib.Path, hub: str) -> Cnf:
        """Start one in namespace ``hub`` and wait until it serves."""
        begun = time.monotonic()
        command = [sys.executable, str(_HERE / "bench_cnf.py"), str(state), f"/run/netns/{hub}"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        return cls(process, said, time.monotonic() - begun)

    def spent(self) -> Spent:
        """Return what its calls took so far, as the process itself saw them."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("spent\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        return Spent([(verb, milliseconds) for verb, milliseconds in found["calls"]], found["cpu_ms"])

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
