"""Throw-away network namespaces for tests on the real kernel: ``fbt-…``, removed by the end of ``throw_away``."""

from __future__ import annotations

import contextlib
import pathlib
import secrets
import subprocess
from collections.abc import Iterator

FOLDER = pathlib.Path("/run/netns")


class Net:
    """One namespace: ``name`` for ip netns, ``path`` for setns."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = FOLDER / name

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside; return what it prints."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command], capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{command} in {self.name} ended {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command inside; the caller ends it."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def answers_ping(self, address: str, *, size: int = 56, fragment: bool = True) -> bool:
        """Return whether ``address`` answers a ping within half a minute, before any ICMP error.

        The kernel starts a link's queue some time after its carrier (linkwatch), and drops packets until then.
        """
        dont = ["-M", "do"] if not fragment else []
        command = ["ping", "-c", "1", "-w", "30", "-i", "0.05", "-s", str(size), *dont, address]
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command], capture_output=True, timeout=60, check=False
        )
        return done.returncode == 0


class Nets:
    """Makes namespaces and removes what it made."""

    def __init__(self) -> None:
        self._token = secrets.token_hex(3)
        self._made: dict[str, Net] = {}

    def make(self, name: str = "") -> Net:
        """Make a namespace with ``lo`` up."""
        net = Net(f"fbt-{self._token}-{name or len(self._made)}")
        subprocess.run(["ip", "netns", "add", net.name], check=True, timeout=30)
        self._made[net.name] = net
        subprocess.run(["ip", "-n", net.name, "link", "set", "lo", "up"], check=True, timeout=30)
        return net

    def remove(self, net: Net) -> None:
        """Remove a namespace; the kernel takes its interfaces down soon after."""
        if self._made.pop(net.name, None) is not None:
            subprocess.run(["ip", "netns", "del", net.name], check=False, capture_output=True, timeout=30)

    def remove_all(self) -> None:
        """Remove what is left."""
        for net in list(self._made.values()):
            self.remove(net)


@contextlib.contextmanager
def throw_away() -> Iterator[Nets]:
    """Lend a maker of namespaces."""
    nets = Nets()
    try:
        yield nets
    finally:
        nets.remove_all()
