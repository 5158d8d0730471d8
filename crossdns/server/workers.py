"""Starts the answering processes, sends them the zone, and notices when one ends.

Invariant: sockets are bound here and handed over, so a port in use is one clear error at the start. No copy of a socket
is kept: the kernel would go on giving it queries that nobody reads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable

from crossdns import errors
from crossdns.server import counters, feed, tcp, udp

log = logging.getLogger(__name__)

# A process that takes no update for this long has stopped.
STALL_S = 10.0
_POLL_S = 0.2


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """One slot of the board, and the protocol that it counts for."""

    protocol: str
    index: int


@dataclasses.dataclass(slots=True)
class _Worker:
    label: str
    process: subprocess.Popen[bytes]
    feed: socket.socket


class WorkerPool:
    """The answering processes: some for UDP and one for TCP."""

    def __init__(self, *, port: int, udp_processes: int, log_level: str = "info") -> None:
        self._lock = threading.Lock()
        self._generation = 0
        self._published = time.monotonic()
        self._workers: list[_Worker] = []
        self.slots: list[Slot] = []
        with contextlib.ExitStack() as held:
            groups = _listen(port, udp_processes, held)
            self._board = counters.Board.create(sum(len(sockets) for _, sockets in groups))
            for number, (protocol, sockets) in enumerate(groups):
                first = len(self.slots)
                self.slots += [Slot(protocol, first + n) for n in range(len(sockets))]
                self._workers.append(self._start(f"{protocol}-{number}", protocol, sockets, first, log_level))

    def _start(self, label: str, protocol: str, sockets: list[socket.socket], first: int, log_level: str) -> _Worker:
        ours, theirs = socket.socketpair()
        ours.settimeout(STALL_S)
        fds = [sock.fileno() for sock in sockets]
        command = [
            sys.executable,
            "-m",
            "crossdns.server.worker",
            "--protocol",
            protocol,
            "--feed",
            str(theirs.fileno()),
        ]
        command += ["--sockets", ",".join(map(str, fds)), "--counters", str(self._board.fd), "--log-level", log_level]
        command += ["--slots", str(self._board.slots), "--first-slot", str(first)]
        process = subprocess.Popen(command, pass_fds=[*fds, theirs.fileno(), self._board.fd], stdin=subprocess.DEVNULL)
        theirs.close()
        return _Worker(label, process, ours)

    def publish(self, make: Callable[[int], Iterable[feed.Frame]]) -> None:
        """Send the frames of one update, made for its generation, to every process.

        Raises:
            WorkerDiedError: one is gone or takes nothing any more.
        """
        with self._lock:
            self._generation += 1
            self._published = time.monotonic()
            for frame in make(self._generation):
                packed = feed.pack(frame)
                for worker in self._workers:
                    _send(worker, packed)

    def run(self, stop: threading.Event) -> None:
        """Watch the processes until ``stop``.

        Raises:
            WorkerDiedError: one ended.
        """
        while not stop.wait(_POLL_S):
            gone = self.gone()
            if gone is not None:
                raise errors.WorkerDiedError(gone)

    def gone(self) -> str | None:
        """Return a sentence on the process that ended, if one did."""
        for worker in self._workers:
            status = worker.process.poll()
            if status is not None:
                return f"answering process {worker.label} ended with status {status}"
        return None

    def pids(self) -> list[int]:
        """Return the processes' ids."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """End the processes by ending their feeds."""
        for worker in self._workers:
            worker.feed.close()
        for worker in self._workers:
            try:
                worker.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        os.close(self._board.fd)

    def counts(self, slot: Slot) -> list[int]:
        """Return the counters of one slot."""
        return self._board.slot(slot.index).tolist()

    def received(self) -> int:
        """Return how many messages all processes received so far."""
        return sum(sum(self.counts(slot)[: counters.TRUNCATED]) for slot in self.slots)

    def served(self) -> int:
        """Return the oldest generation that any process serves; 0 while one has none."""
        return min(self.counts(slot)[counters.GENERATION] for slot in self.slots)

    def stalled(self) -> str | None:
        """Return a sentence when a process has been behind with the zone for too long."""
        if self.served() < self._generation and time.monotonic() - self._published > STALL_S:
            return f"a process serves generation {self.served()} of the zone, {self._generation} was sent"
        return None


def _send(worker: _Worker, packed: bytes) -> None:
    try:
        worker.feed.sendall(packed)
    except OSError as err:
        raise errors.WorkerDiedError(f"answering process {worker.label} takes no updates: {err}") from err


def _listen(port: int, udp_processes: int, held: contextlib.ExitStack) -> list[tuple[str, list[socket.socket]]]:
    """Bind every process' sockets, on all addresses of each address family that the kernel has."""
    families = [socket.AF_INET]
    if _has_ipv6():
        families.append(socket.AF_INET6)
    try:
        groups = [("udp", [udp.listen(family, port, held) for family in families]) for _ in range(udp_processes)]
        return [*groups, ("tcp", [tcp.listen(family, port, held) for family in families])]
    except OSError as err:
        raise errors.ListenError(f"DNS_PORT {port} can't be bound: {err}") from err


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True
