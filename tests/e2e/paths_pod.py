"""What runs in the pods of the data path's tests, as server (``serve``) and as client (``crowd``, ``echo``).

A server answers with its own name and the caller's address as it sees it, sends a known blob, and returns datagrams.
"""

import collections
import http.server
import json
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator

HTTP_PORT = 8080
ECHO_PORT = 9000
HIDDEN_PORT = 8081
"""Served like ``HTTP_PORT``, and named by no export."""
BLOB_BYTES = 100_000_000
_PIECE = 1_000_000


def blob() -> Iterator[bytes]:
    """Yield the blob: the same everywhere, and no two pieces alike."""
    piece = random.Random(7).randbytes(_PIECE)
    return (piece[shift:] + piece[:shift] for shift in range(BLOB_BYTES // _PIECE))


class Answer(http.server.BaseHTTPRequestHandler):
    """Sends the blob when asked for it, else who serves whom."""

    def do_GET(self) -> None:
        body = iter([f"{socket.gethostname()} {self.client_address[0]}\n".encode()])
        if self.path == "/blob":
            body = blob()
        self.send_response(200)
        self.end_headers()
        for piece in body:
            self.wfile.write(piece)

    def log_message(self, *_arguments: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024


def serve() -> None:
    """Answer on all ports forever."""
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind(("", ECHO_PORT))

    def return_datagrams() -> None:
        while True:
            data, sender = echo.recvfrom(65535)
            echo.sendto(data, sender)

    threading.Thread(target=return_datagrams, daemon=True).start()
    threading.Thread(target=Server(("", HIDDEN_PORT), Answer).serve_forever, daemon=True).start()
    Server(("", HTTP_PORT), Answer).serve_forever()


def crowd(name: str, count: int) -> dict[str, int]:
    """Hold that many connections open at once, then ask on each; return how often each line was answered."""
    connections = [socket.create_connection((name, 80), timeout=10) for _ in range(count)]
    for connection in connections:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answers: collections.Counter[str] = collections.Counter()
    for connection in connections:
        with connection, connection.makefile("rb") as stream:
            answers[stream.read().split(b"\r\n\r\n", 1)[1].decode().strip()] += 1
    return dict(answers)


def echo(name: str, size: int, count: int) -> dict[str, float]:
    """Send random datagrams one after the other; return how many came back whole, and the fastest one's time."""
    whole, best = 0, float("inf")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(10)
        udp.connect((name, ECHO_PORT))
        for _ in range(count):
            data, began = os.urandom(size), time.monotonic()
            try:
                udp.send(data)
                whole += udp.recv(65535) == data
            except OSError as err:
                return {"whole": whole, "error": err.errno or 0}
            best = min(best, time.monotonic() - began)
    return {"whole": whole, "best_ms": best * 1000}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["crowd", name, count]:
            print(json.dumps(crowd(name, int(count))))
        case ["echo", name, size, count]:
            print(json.dumps(echo(name, int(size), int(count))))
