"""What runs in a streams pod: long TCP connections, of which half speak by the client and half by the server.

``server``: answers on PORT. A connection's first line says who speaks: ``pull``, every line is answered with its
number; ``push``, a numbered line is sent every PERIOD_S. ``client COUNT LABEL=TARGET...``: keeps COUNT connections of
each kind to each target and writes what became of them to a file every 0.1 s.

Invariant: a connection is never opened again, and one that skips or repeats a number is dead.
"""

import json
import pathlib
import socket
import socketserver
import sys
import threading
import time

PORT = 9000
PERIOD_S = 0.2
FILE = pathlib.Path("/tmp/streams")


class Server(socketserver.ThreadingTCPServer):
    """Serves each connection in a thread."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


class Speaker(socketserver.StreamRequestHandler):
    """Answers or speaks, as the client wishes."""

    def handle(self) -> None:
        if self.rfile.readline() == b"push\n":
            number = 0
            while True:
                self.wfile.write(b"%d\n" % number)
                number += 1
                time.sleep(PERIOD_S)
        for line in self.rfile:
            self.wfile.write(line)


class Stream:
    """One connection as its client sees it."""

    def __init__(self, label: str, target: str, kind: str) -> None:
        self.label, self.kind = label, kind
        self.count = 0
        self.last = time.time()
        self.stall = 0.0
        self.error = ""
        self.connection = socket.create_connection((target, PORT), timeout=10)
        # The kernel gives up first, and says so.
        self.connection.settimeout(120)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        """Read one number after the other until something is wrong."""
        try:
            self.connection.sendall(self.kind.encode() + b"\n")
            lines = self.connection.makefile("rb")
            while True:
                if self.kind == "pull":
                    self.connection.sendall(b"%d\n" % self.count)
                line = lines.readline()
                if line != b"%d\n" % self.count:
                    raise ValueError(f"{line!r} where {self.count} was due")
                now = time.time()
                self.stall, self.last = max(self.stall, now - self.last), now
                self.count += 1
                if self.kind == "pull":
                    time.sleep(PERIOD_S)
        except (OSError, ValueError) as err:
            self.error = f"{type(err).__name__}: {err}"

    def state(self) -> dict[str, object]:
        """Say how it is; ``stall`` is the longest time between two numbers since the file ``calm`` was touched."""
        kept = ("label", "kind", "count", "last", "stall", "error")
        return {name: getattr(self, name) for name in kept}


def client(count: int, targets: dict[str, str]) -> None:
    """Open all connections, then write down their states forever."""
    streams = [
        Stream(label, target, kind)
        for label, target in targets.items()
        for kind in ("pull", "push")
        for _ in range(count)
    ]
    calm = FILE.with_suffix(".calm")
    while True:
        if calm.exists():
            calm.unlink()
            for stream in streams:
                stream.stall = 0.0
        draft = FILE.with_suffix(".new")
        draft.write_text(json.dumps([stream.state() for stream in streams]))
        draft.rename(FILE)
        time.sleep(0.1)


if sys.argv[1] == "server":
    Server(("", PORT), Speaker).serve_forever()
else:
    client(int(sys.argv[2]), dict(argument.split("=") for argument in sys.argv[3:]))
