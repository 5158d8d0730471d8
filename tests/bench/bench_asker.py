"""Ask DNS servers of a cluster, from its node's network, until each gives the expected answer.

Invariant: an answer counts once every server gives it: of two replicas the slower one counts.
"""

from __future__ import annotations

import dataclasses
import itertools
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from cnf.netlink import namespace

EVERY_S = 0.002
"""How often each open question is asked: no figure can be more exact."""
_HEADER = struct.Struct("!6H")
_RECURSION_DESIRED = 0x0100
_RCODE = 0x000F
_ANSWERED = (0, 3)
"""NOERROR and NXDOMAIN; a server that fails has said nothing."""


class NoAnswerError(Exception):
    """The expected answer did not come in time."""


@dataclasses.dataclass(slots=True)
class Expectation:
    """One question and the answer that is waited for.

    Attributes:
        name: Name whose A records are asked for.
        holds: Returns, by the number of records, whether the answer is the one that is waited for.
        missing: Servers that have not given it, by number.
        at: Monotonic time when the last of them had.
    """

    name: str
    holds: Callable[[int], bool]
    missing: set[int]
    at: float = 0.0
    done: threading.Event = dataclasses.field(default_factory=threading.Event)

    def wait(self, timeout_s: float = 30) -> float:
        """Return when it came.

        Raises:
            NoAnswerError: it didn't in time.
        """
        if not self.done.wait(timeout_s):
            raise NoAnswerError(
                f"{self.name} is not as expected after {timeout_s:.0f} s at {len(self.missing)} servers"
            )
        return self.at


class Asker:
    """Asks some servers of one node's network, from a thread of its own.

    Attributes:
        every_s: How often one open question is asked; each of several at once is asked less often, so that the
            measurement is not the load.
    """

    def __init__(self, node: str, servers: Sequence[tuple[str, int]]) -> None:
        self.every_s = EVERY_S
        self._sockets = [_connect(node, server) for server in servers]
        self._open: dict[int, Expectation] = {}
        self._lock, self._numbers = threading.Lock(), itertools.count()
        self._asked: dict[int, Expectation] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"asks {node}", daemon=True)
        self._thread.start()

    def expect(self, name: str, holds: Callable[[int], bool]) -> Expectation:
        """Begin to ask for ``name``."""
        expectation = Expectation(name, holds, set(range(len(self._sockets))))
        with self._lock:
            self._open[id(expectation)] = expectation
        return expectation

    def close(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join(10)
        for sock in self._sockets:
            sock.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            with self._lock:
                waiting = list(self._open.values())
            for expectation in waiting:
                self._ask(expectation)
            until = began + max(1, len(waiting)) * self.every_s
            while (left_s := until - time.monotonic()) > 0:
                self._read(left_s)

    def _ask(self, expectation: Expectation) -> None:
        number = next(self._numbers) & 0xFFFF
        self._asked[number] = expectation
        message = _query(number, expectation.name)
        for server in list(expectation.missing):
            try:
                self._sockets[server].send(message)
            except OSError:
                continue

    def _read(self, timeout_s: float) -> None:
        for sock in select.select(self._sockets, [], [], timeout_s)[0]:
            try:
                reply = sock.recv(65535)
            except OSError:
                continue
            number, flags, _, answers, _, _ = _HEADER.unpack_from(reply)
            expectation = self._asked.get(number)
            if expectation is None or expectation.done.is_set() or flags & _RCODE not in _ANSWERED:
                continue
            if expectation.holds(answers):
                expectation.missing.discard(self._sockets.index(sock))
                if not expectation.missing:
                    self._end(expectation)

    def _end(self, expectation: Expectation) -> None:
        expectation.at = time.monotonic()
        with self._lock:
            del self._open[id(expectation)]
        expectation.done.set()


def _query(number: int, name: str) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def _connect(node: str, server: tuple[str, int]) -> socket.socket:
    pid = subprocess.run(
        ["docker", "inspect", "--format", "{{.State.Pid}}", node],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    place = namespace.NetworkNamespace.open(f"/proc/{pid.stdout.strip()}/ns/net")
    try:
        sock = place.open_inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
    finally:
        place.close()
    sock.connect(server)
    return sock
