"""A pod that asks for a service ten times a second and writes down what it got: how tests time what clients see.

Invariant: it asks as any pod does, by its resolv.conf and a new connection each time.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import lab

EXCHANGE = r"""
import socket
def exchange(query):
    # With the first server of resolv.conf: the resolver library doesn't tell NXDOMAIN from no data.
    with open("/etc/resolv.conf") as file:
        server = next(line.split()[1] for line in file if line.startswith("nameserver"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(1)
        udp.connect((server, 53))
        for tries in range(1, 6):  # as resolvers do: a datagram may be lost, and a busy machine is slow
            try:
                udp.send(query)
                return udp.recv(4096), tries
            except OSError as err:
                failed = err
    raise failed
"""
"""A query's answer and after how many tries, in a pod; an OSError when five tries of a second got none."""

ASK = (
    EXCHANGE
    + r"""
import struct, time
def ask(name):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack("!6H", time.monotonic_ns() & 0xFFFF, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
    try:
        reply, tries = exchange(query)
    except OSError as err:
        return type(err).__name__, [], 5
    count = struct.unpack("!H", reply[6:8])[0]
    place, found = len(query), []
    for _ in range(count):
        while reply[place] and reply[place] < 0xC0:
            place += reply[place] + 1
        place += 2 if reply[place] >= 0xC0 else 1
        kind, _, _, size = struct.unpack("!HHIH", reply[place : place + 10])
        place += 10 + size
        if kind == 1:
            found.append(socket.inet_ntoa(reply[place - size : place]))
    rcode = reply[3] & 15
    return {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN"}.get(rcode, str(rcode)), sorted(found), tries
"""
)

WATCH = (
    ASK
    + r"""
import json, sys
def connect(address, port):
    try:
        with socket.create_connection((address, port), timeout=2) as stream:
            return "served" if (line := stream.recv(200).decode().strip()) else "empty", line
    except OSError as err:
        return type(err).__name__, ""
known = ""
while True:
    began = time.time()
    rcode, found, tries = ask(sys.argv[1])
    known = found[0] if found else known
    asked = time.time()
    outcome, line = connect(known, int(sys.argv[2])) if known else ("unknown", "")
    sample = dict(at=began, rcode=rcode, addresses=found, tries=tries)
    print(json.dumps(sample | dict(outcome=outcome, line=line, took=time.time() - asked)), flush=True)
    time.sleep(max(0, 0.1 - (time.time() - began)))
"""
)


PATIENCE = 2
"""Questions for a name that a client doesn't notice: as many as the pods of ``pulse`` send."""

SERVE = r"""
import os, signal, socketserver, sys
class Answer(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(os.uname().nodename.encode() + b"\n")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 128
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
Server(("", int(sys.argv[1])), Answer).serve_forever()
"""


def serve(port: int) -> list[str]:
    """Return the command of a server that says its pod's name; what goes wrong in it is in its log."""
    return ["python3", "-u", "-c", SERVE, str(port)]


@dataclasses.dataclass(frozen=True)
class Sample:
    """What one try got.

    Attributes:
        at: When it began, seconds since the epoch.
        rcode: What DNS answered.
        addresses: The A records.
        outcome: ``served``, ``empty``, or the name of the connection's error. While there is no record it goes to the
            last address that there was.
        line: What the server said.
        took: Seconds of the connection.
        tries: How often DNS was asked, a second apart.
    """

    at: float
    rcode: str
    addresses: list[str]
    outcome: str
    line: str
    took: float
    tries: int


def make(name: str, namespace: str, *, host: str, port: int, node: str = "") -> dict[str, Any]:
    """Make the Deployment of an observer of one service."""
    command = ["python3", "-u", "-c", WATCH, host, str(port)]
    return lab.make_deployment(name, namespace, command=command, node=node, cpu=lab.MEASURED)


def samples(pod: lab.Pod, *, since: float) -> list[Sample]:
    """Return what an observer saw since a time."""
    seconds = max(1, int(time.time() - since) + 2)
    lines = pod.cluster.kubectl("-n", pod.namespace, "logs", pod.name, f"--since={seconds}s").splitlines()
    found = [Sample(**json.loads(line)) for line in lines if line.startswith("{") and line.endswith("}")]
    return [sample for sample in found if sample.at >= since]


def noticed(seen: list[Sample]) -> list[Sample]:
    """Return what a client notices: it wasn't served, or its name took more questions than a resolver sends at most."""
    return [one for one in seen if (one.rcode, one.outcome) != ("NOERROR", "served") or one.tries > PATIENCE]


def wait(pod: lab.Pod, *, since: float, within_s: float, until: Callable[[list[Sample]], bool]) -> float:
    """Wait until ``until`` holds of what was seen since a time; return after how many seconds it did.

    The wait itself is generous: what the observer wrote down says when it was, and that is what is asserted.
    """

    def enough() -> list[Sample]:
        found = samples(pod, since=since)
        assert until(found), f"{pod.cluster.name} saw last {found[-1:]}"
        return found

    found = lab.eventually(enough, within_s=within_s + 10, every_s=0.3)
    first = next(number for number in range(1, len(found) + 1) if until(found[:number]))
    took_s = found[first - 1].at - since
    assert took_s <= within_s, f"{pod.cluster.name} took {took_s:.1f} s"
    return took_s


def settle(pod: lab.Pod, *, since: float, within_s: float, holds: Callable[[Sample], bool]) -> float:
    """Wait until ``holds`` is true of all that was seen for a second; return the seconds until it became so."""

    def calm() -> list[Sample]:
        found = samples(pod, since=since)
        assert found, f"{pod.cluster.name} saw nothing yet"
        run = _run(found, holds)
        lasted_s = found[-1].at - found[-run].at if run else 0
        assert lasted_s >= 1, f"{pod.cluster.name} saw last {found[-1]}"
        return found

    found = lab.eventually(calm, within_s=within_s + 10, every_s=0.3)
    run = _run(found, holds)
    took_s = found[-run].at - since
    before = collections.Counter((one.rcode, *one.addresses, one.outcome) for one in found[:-run])
    assert took_s <= within_s, f"{pod.cluster.name} took {took_s:.1f} s; before that it saw {dict(before)}"
    return took_s


def _run(found: list[Sample], holds: Callable[[Sample], bool]) -> int:
    """Count the samples at the end for which ``holds`` is true."""
    return sum(1 for _ in itertools.takewhile(holds, reversed(found)))


def ask(pod: lab.Pod, name: str) -> tuple[str, list[str]]:
    """Resolve a name in a pod; return the rcode and the addresses."""
    script = ASK + "import json, sys\nprint(json.dumps(ask(sys.argv[1])))"
    rcode, addresses, _ = json.loads(pod.exec("python3", "-c", script, name))
    return rcode, addresses
