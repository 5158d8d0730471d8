"""What runs in a pod to ask for names all the while: ``queries_pod.py SECONDS NAME ADDRESS SERVER...``, prints JSON.

It ends after that time, or when there is a file ``ENOUGH``.

Each server is asked from one socket that is kept, as CoreDNS keeps its own, and from a new one for each query, as pods
do. By turns they ask for a name that is there and for one that is not, a new one each time, which no cache holds. As
resolvers do, a query is sent again after a second; ``again`` counts those.
"""

import json
import pathlib
import random
import socket
import struct
import sys
import threading
import time

PERIOD_S = 0.03
TRIES = 5
"""Of a second each: a busy machine alone costs one now and then."""
ENOUGH = pathlib.Path("/tmp/enough")
NOERROR, NXDOMAIN = 0, 3


def encode(name: str, number: int) -> bytes:
    """Make a query for A."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def connect(server: str) -> socket.socket:
    """Make a socket that receives from this server alone."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(1.0)
    sock.connect((server, 53))
    return sock


def ask(sock: socket.socket, query: bytes) -> bytes:
    """Return the answer, empty when there is none."""
    try:
        sock.send(query)
        while True:
            answer = sock.recv(4096)
            if answer[:2] == query[:2]:
                return answer
    except OSError:
        return b""


def run(server: str, *, kept: bool, name: str, address: str, until: float, found: dict[str, object]) -> None:
    """Ask until ``until`` and count what happens."""
    sock = connect(server)
    asked = again = 0
    wrong: list[str] = []
    while time.time() < until and not ENOUGH.exists():
        there = asked % 2 == 0
        query = encode(name if there else f"x{random.randrange(1 << 40)}.{name}", random.randrange(1 << 16))
        began = time.time()
        asked += 1
        for attempt in range(TRIES):
            if not kept:
                sock.close()
                sock = connect(server)
            answer = ask(sock, query)
            if answer:
                again += attempt
                break
        right = bool(answer) and answer[3] & 0x0F == (NOERROR if there else NXDOMAIN)
        if not right or (there and socket.inet_aton(address) not in answer):
            wrong.append(f"{began:.3f}: {answer.hex() or 'no answer'}")
        time.sleep(PERIOD_S)
    found[f"{server} {'kept' if kept else 'new'}"] = {"asked": asked, "again": again, "wrong": wrong}


def main() -> None:
    """Ask every server in both ways at once."""
    ENOUGH.unlink(missing_ok=True)
    seconds, name, address, *servers = sys.argv[1:]
    found: dict[str, object] = {}
    options = {"name": name, "address": address, "until": time.time() + float(seconds), "found": found}
    threads = [
        threading.Thread(target=run, args=(server,), kwargs={"kept": kept, **options})
        for server in servers
        for kept in (True, False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(found))


main()
