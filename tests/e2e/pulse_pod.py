"""What runs in a pulse pod: answers HTTP, and fetches from every target five times a second, noting when and how.

Targets are read from a file as they change, and notes go to another; both lie on a volume that outlives the container,
so that a node's restart loses none.
"""

import http.server
import os
import pathlib
import socket
import threading
import time

PORT = 8080
GREETING = "pulse of "
PERIOD_S = 0.2
TIMEOUT_S = 1.5
"""Longer than TCP waits before it sends a lost first packet again: one lost packet is no failure."""
FOLDER = pathlib.Path("/pulse")


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers with the pod's name."""

    def do_GET(self) -> None:
        body = f"{GREETING}{os.uname().nodename}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


def fetch(target: str) -> str:
    """Return the name of the pod that answered.

    Raises:
        OSError: none did in time.
        ValueError: something else did: without its second interface a pod sends to whatever lies behind the first.
    """
    with socket.create_connection((target, PORT), timeout=TIMEOUT_S) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    _, greeting, name = answer.decode(errors="replace").partition(GREETING)
    if not greeting:
        raise ValueError("not a pulse pod")
    return name


def note(label: str, target: str) -> None:
    """Fetch once and note start, end, label, and what was answered, or ``!`` and why nothing was."""
    began = time.time()
    try:
        answer = fetch(target)
    except (OSError, ValueError) as err:
        answer = f"!{type(err).__name__}:{err}".replace(" ", "_")
    with (FOLDER / "notes").open("a") as notes:
        notes.write(f"{began:.3f} {time.time():.3f} {label} {answer}\n")


def watch(label: str, target: str, stop: threading.Event) -> None:
    """Begin an attempt each period until ``stop``, whether or not the last one ended."""
    while not stop.wait(PERIOD_S):
        threading.Thread(target=note, args=(label, target), daemon=True).start()


def main() -> None:
    """Serve, and follow the file of targets: a line each, a label and where to."""
    # Five connections may wait by default, a quarter of a second's: one pod that gets no processor for as long as
    # others start would drop the next, and look like a network that does.
    http.server.ThreadingHTTPServer.request_queue_size = 128
    server = http.server.ThreadingHTTPServer(("", PORT), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known: dict[str, threading.Event] = {}
    while True:
        path = FOLDER / "targets"
        wanted = set(path.read_text().splitlines()) if path.exists() else set()
        for line in known.keys() - wanted:
            known.pop(line).set()
        for line in wanted - known.keys():
            known[line] = threading.Event()
            label, target = line.split()
            threading.Thread(target=watch, args=(label, target, known[line]), daemon=True).start()
        time.sleep(0.2)


main()
