"""Watches of the hub as members keep them: many in one thread, by sockets alone.

Invariant: a change's age is taken when its bytes are read, before anything is parsed.
"""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import json
import random
import re
import selectors
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

from fleetboard.kube import selective
from fleetboard.model import names, resource
from syncer.member import clusterset

CONTEXT = "kind-fleet-hub"
NAMESPACE = "bench-fanout"
NAMESPACES = 500
SHARE = 0.1
"""Part of the namespaces that one member has."""
_GRACE_S = 5.0
_AT = re.compile(rb'"bench/at":"(\d+)"')
_SPACE = re.compile(rb'"fleetboard.io/service-namespace":"([^"]+)"')


def space(number: int) -> str:
    """Name a namespace of the clusterset; of an everyday length."""
    return f"team-{number:03}-production"


Ages = list[tuple[int, float]]
"""The time that a change carries, and its age in milliseconds when a member received it."""


@dataclasses.dataclass(slots=True)
class Member:
    """One watch; ``ended`` when the hub gave it up because it could not send all that there was."""

    spaces: frozenset[str]
    sock: ssl.SSLSocket
    tail: bytes = b""
    received: int = 0
    ended: bool = False

    def read(self) -> Ages:
        """Take what has come."""
        ages: Ages = []
        while True:
            try:
                chunk = self.sock.recv(1 << 18)
            except ssl.SSLWantReadError:
                return ages
            if not chunk:
                self.ended = True
                return ages
            now = time.time_ns()
            *lines, self.tail = (self.tail + chunk).split(b"\n")
            for line in lines:
                at, whose = _AT.search(line), _SPACE.search(line)
                if at is not None and whose is not None and whose[1].decode() in self.spaces:
                    self.received += 1
                    ages.append((int(at[1]), (now - int(at[1])) / 1e6))


def join(count: int, *, everything: bool, version: str) -> list[Member]:
    """Begin to watch as ``count`` members do."""
    shown = subprocess.run(
        ["kubectl", "config", "view", "--raw", "--minify", f"--context={CONTEXT}", "-o=json"],
        capture_output=True,
        check=True,
        timeout=30,
    )
    view = json.loads(shown.stdout)
    server, user = view["clusters"][0]["cluster"], view["users"][0]["user"]
    context = _context(server, user)
    chosen = random.Random(1)
    members = []
    for number in range(count):
        mine = frozenset(map(space, chosen.sample(range(NAMESPACES), int(NAMESPACES * SHARE))))
        selector = clusterset.slice_selector(f"member-{number}")
        if not everything:
            selector += "," + selective.render(names.LABEL_SERVICE_NAMESPACE, mine)
        members.append(Member(mine, _watch(urllib.parse.urlsplit(server["server"]), context, selector, version)))
    return members


def _context(server: dict[str, str], user: dict[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=base64.b64decode(server["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as both:
        both.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        both.flush()
        context.load_cert_chain(both.name)
    return context


def _watch(server: urllib.parse.SplitResult, context: ssl.SSLContext, selector: str, version: str) -> ssl.SSLSocket:
    """Open a watch; HTTP/1.0 so that events come without chunks around them."""
    assert server.hostname is not None
    query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, "labelSelector": selector}
    path = f"{resource.ENDPOINT_SLICES.path(NAMESPACE)}?{urllib.parse.urlencode(query)}"
    plain = socket.create_connection((server.hostname, server.port or 443), timeout=30)
    sock = context.wrap_socket(plain, server_hostname=server.hostname)
    sock.sendall(f"GET {path} HTTP/1.0\r\nHost: {server.hostname}\r\nAccept: application/json\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(1)
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise SystemExit(f"bench: the hub refuses a watch: {head.decode()}")
    sock.setblocking(False)
    return sock


def listen(members: Sequence[Member], writing: concurrent.futures.Future[Any]) -> Ages:
    """Read all watches until the writer is done and nothing more comes."""
    ages: Ages = []
    with selectors.DefaultSelector() as ready:
        for member in members:
            ready.register(member.sock, selectors.EVENT_READ, member)
        last = time.monotonic()
        while not writing.done() or time.monotonic() - last < _GRACE_S:
            for key, _ in ready.select(0.2):
                found = key.data.read()
                if key.data.ended:
                    ready.unregister(key.fileobj)
                ages += found
                last = time.monotonic() if found else last
    return ages
