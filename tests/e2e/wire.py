"""Network namespaces of nodes and pods, seen from this machine: what passes on their wires, and commands within.

Invariant: what a capture doesn't show has not passed: it listens before ``with`` begins, and before it answers it
has shown a packet of its own that was sent when it was asked. A test that expects nothing on one wire shows the same
packets on another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import lab

PROBE = "ip proto 253"
"""What a capture's own packets are: the protocol is for experiments (RFC 3692)."""
PROBE_SCRIPT = r"""
import socket, struct, sys
text = sys.argv[2].encode()
ends = bytes([192, 0, 2, 1, 192, 0, 2, 2])
header = struct.pack("!BBHHHBBH8s", 0x45, 0, 20 + len(text), 0, 0, 1, 253, 0, ends)
# To nobody's MAC: any other receiver ignores the frame. An interface without such addresses takes none.
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as link:
    link.sendto(header + text, (sys.argv[1], 0x0800, 0, 0, bytes([2, 0, 0, 0, 0, 1])))
"""


@dataclasses.dataclass(frozen=True)
class Space:
    """A network namespace."""

    path: str

    def run(self, *command: str, stdin: str | None = None, timeout_s: float = 30) -> str:
        """Run a command of this machine in it.

        Raises:
            lab.CommandError: it failed.
        """
        return lab.run("nsenter", f"--net={self.path}", *command, stdin=stdin, timeout_s=timeout_s)

    @contextlib.contextmanager
    def capture(self, interface: str, filter_: str = "") -> Iterator[Capture]:
        """Write down what passes on one of its interfaces while the context lasts."""
        with tempfile.TemporaryDirectory(prefix="fleetboard-wire-") as folder:
            file = pathlib.Path(folder) / "packets"
            command = ("nsenter", f"--net={self.path}", "tcpdump", "-nn", "-U", "-Z", "root", "--immediate-mode", "-s0")
            wanted = f"({filter_}) or {PROBE}" if filter_ else ""
            # Its words go to a file: a pipe that nobody reads would hold it up.
            with (
                (file.parent / "words").open("w+") as words,
                subprocess.Popen(
                    [*command, "-i", interface, "-w", str(file), *wanted.split()], stderr=words
                ) as tcpdump,
            ):
                try:
                    lab.eventually(lambda: "listening on" in _read(words.name), within_s=10, every_s=0.02)
                    yield Capture(self, interface, file)
                finally:
                    tcpdump.send_signal(signal.SIGINT)


@dataclasses.dataclass(frozen=True)
class Capture:
    """What passed so far; within its context only."""

    space: Space
    interface: str
    file: pathlib.Path

    def lines(self, filter_: str = "") -> list[str]:
        """Return a line for each packet that passes a filter."""
        self._catch_up()
        wanted = f"({filter_}) and not {PROBE}" if filter_ else f"not {PROBE}"
        command = ("tcpdump", "-nn", "-Z", "root", "-r", str(self.file), *wanted.split())
        # A large packet that is half written is an error; the next try finds it whole.
        return lab.eventually(lambda: (lab.run(*command),), within_s=10)[0].splitlines()

    def shows(self, text: bytes) -> bool:
        """Return whether a text passed in clear."""
        self._catch_up()
        return text in self.file.read_bytes()

    def _catch_up(self) -> None:
        """Wait for what passed before: tcpdump may be seconds behind."""
        text = secrets.token_hex(16)
        self.space.run(sys.executable, "-c", PROBE_SCRIPT, self.interface, text)
        lab.eventually(lambda: text.encode() in self.file.read_bytes(), within_s=60, every_s=0.02)


def of_node(node: str) -> Space:
    """Return a node's own network namespace."""
    return Space(f"/proc/{lab.run('docker', 'inspect', '-f', '{{.State.Pid}}', node).strip()}/ns/net")


def of_pod(pod: lab.Pod) -> Space:
    """Return a pod's network namespace, whatever runtime made it: the one with the inode that the pod sees."""
    wanted = pod.exec("stat", "-Lc", "%d:%i", "/proc/self/ns/net").strip()
    for process in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and _inode(process / "ns/net") == wanted:
                return Space(str(process / "ns/net"))
    raise AssertionError(f"{pod.name} runs in none of this machine's network namespaces")


def _inode(path: pathlib.Path) -> str:
    status = os.stat(path)
    return f"{status.st_dev}:{status.st_ino}"


def _read(path: str) -> str:
    return pathlib.Path(path).read_text()
