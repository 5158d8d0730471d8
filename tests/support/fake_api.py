"""A small API server over real sockets that a test can make misbehave in ways a real one can't.

Invariant: it speaks the real protocol (Status bodies, resource versions, chunked watches, continue tokens), so the
client under test needs no hook for it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gzip
import http.server
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

from fleetboard.kube.client import Client

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Target:
    """What a path addresses."""

    collection: str
    namespace: str
    name: str
    subresource: str


@dataclasses.dataclass(frozen=True)
class RecordedRequest:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclasses.dataclass
class Fault:
    """An answer to give instead of the right one."""

    status: int
    body: bytes
    times: int
    method: str
    watch: bool | None
    headers: dict[str, str]
    path: str = ""


class FakeApi:
    """State of the server and the switches of its faults; use as a context manager."""

    def __init__(self) -> None:
        self.requests: list[RecordedRequest] = []
        self.connections = 0
        self.tokens: set[str] | None = None  # None: any token is accepted
        self.stalled = threading.Event()  # set: requests are read and never answered
        self.end_watches_at_once = False
        self._muted = 0  # how many watches, the oldest ones, stay open and send nothing
        self.changed = threading.Condition()
        self.version = 100
        self.compacted = 0
        self.log: list[tuple[int, str, str, Object]] = []
        self.faults: list[Fault] = []
        self.objects: dict[
            tuple[str, str, str], Object
        ] = {}  # replaced by each change, so that an iteration keeps the old one
        self.applied: dict[tuple[str, ...], Object] = {}
        self.missing_fields: dict[str, set[str]] = {}  # collection to fields of spec that its schema doesn't have
        self.openapi: dict[str, Object] = {}  # group/version to its document
        self.quota: dict[tuple[str, str], int] = {}  # collection and namespace to how many objects there may be
        self.bookmarked = 0  # version of the last bookmark
        self.closing = False
        self._sockets: list[socket.socket] = []
        self._server = _Server(self)

    def __enter__(self) -> FakeApi:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.stalled.clear()
        self.cut()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def client(self, *, token: str = "t") -> Client:
        return Client.from_token(self.url, ca_pem=b"", token=lambda: token, user_agent="test/1")

    def watches(self) -> list[RecordedRequest]:
        return [request for request in self.requests if "watch" in request.query]

    def lists(self) -> list[RecordedRequest]:
        return [request for request in self.requests if request.method == "GET" and "watch" not in request.query]

    # What happens to the objects.

    def put(self, collection: str, name: str, namespace: str = "default", **fields: Any) -> Object:
        """Create or change an object as someone else would."""
        with self.changed:
            key = (collection, namespace, name)
            return self.store(key, {"metadata": {"name": name, "namespace": namespace}, **fields})

    def store(self, key: tuple[str, str, str], obj: Object) -> Object:
        old = self.objects.get(key)
        self.version += 1
        obj = copy.deepcopy(obj)
        uid = old["metadata"]["uid"] if old else f"uid-{self.version}"
        obj["metadata"] = {**obj.get("metadata", {}), "uid": uid, "resourceVersion": str(self.version)}
        self.objects = {**self.objects, key: obj}
        self.log.append((self.version, "MODIFIED" if old else "ADDED", key[0], obj))
        self.changed.notify_all()
        return obj

    def replace(self, key: tuple[str, str, str], obj: Object) -> Object:
        """Store an object again; an unchanged one keeps its version, and no watch reports it."""
        old = self.objects.get(key)
        if old is not None:
            served = {name: old["metadata"][name] for name in ("uid", "resourceVersion")}
            if {**obj, "metadata": {**obj.get("metadata", {}), **served}} == old:
                return old
        return self.store(key, obj)

    def remove(self, collection: str, name: str, namespace: str = "default") -> None:
        with self.changed:
            left = dict(self.objects)
            obj = copy.deepcopy(left.pop((collection, namespace, name)))
            self.objects = left
            self.version += 1
            obj["metadata"]["resourceVersion"] = str(self.version)
            self.log.append((self.version, "DELETED", collection, obj))
            self.changed.notify_all()

    # Faults.

    def fail(
        self,
        status: int,
        *,
        times: int = 1,
        method: str = "GET",
        watch: bool | None = None,
        reason: str = "",
        message: str = "made to fail",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        path: str = "",
    ) -> None:
        """Answer the next ``times`` requests of ``method`` with ``status``, if their path contains ``path``."""
        status_body = {"kind": "Status", "code": status, "reason": reason, "message": message}
        answer = json.dumps(status_body).encode() if body is None else body
        self.faults.append(Fault(status, answer, times, method, watch, headers or {}, path))

    def compact(self) -> None:
        """Forget the past: watches from before now get 410."""
        with self.changed:
            self.version += 1
            self.compacted = self.version
            self.log.clear()

    def bookmark(self) -> None:
        """Send a bookmark to every watch."""
        with self.changed:
            self.version += 1
            self.bookmarked = self.version
            self.changed.notify_all()

    def mute(self) -> None:
        """Stop the events of the watches that are open, as when a connection is half dead."""
        self._muted = len(self.watches())

    def is_muted(self, number: int) -> bool:
        """Return whether the watch of that number, counted from 1, is muted."""
        return number <= self._muted

    def cut(self) -> None:
        """End every connection without a word."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def accepted(self, sock: socket.socket) -> None:
        self.connections += 1
        self._sockets.append(sock)

    def fault(self, method: str, path: str, *, watch: bool) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and fault.watch in (None, watch) and fault.path in path:
                fault.times -= 1
                return fault
        return None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log no error for connections that ``cut`` ended."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.api.accepted(self.connection)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        """Keep no log."""

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        api = self.server.api
        path, _, query_text = self.path.partition("?")
        query = dict(urllib.parse.parse_qsl(query_text))
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        headers = {name.lower(): value for name, value in self.headers.items()}
        api.requests.append(RecordedRequest(method, path, query, headers, body))
        while api.stalled.is_set() and not api.closing:
            time.sleep(0.02)
        fault = api.fault(method, path, watch="watch" in query)
        if fault is not None:
            self._answer(fault.status, fault.body, fault.headers)
            return
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if api.tokens is not None and token not in api.tokens:
            self._status(401, "Unauthorized", "who are you")
            return
        described = api.openapi.get(path.removeprefix("/openapi/v3/apis/"))
        served = path.removeprefix("/apis/") in api.openapi
        target = _target(path)
        if described is not None:
            self._json(200, described)
        elif served:
            self._json(200, {"resources": [{"name": "serviceexports"}, {"name": "serviceimports"}]})
        elif not target.collection and path.startswith("/apis/"):
            self._status(404, "NotFound", "the server could not find the requested resource")
        elif method == "GET" and "watch" in query:
            self._watch(target, query)
        elif method == "GET" and not target.name:
            self._list(target, query)
        else:
            with api.changed:
                self._one(method, target, body, query)

    def _one(self, method: str, target: Target, body: Any, query: dict[str, str]) -> None:
        api = self.server.api
        name = target.name or body["metadata"].get("name", "")
        key = (target.collection, target.namespace, name)
        old = api.objects.get(key)
        if isinstance(body, dict) and "spec" in body:
            dropped = api.missing_fields.get(target.collection, set())
            body["spec"] = {field: value for field, value in body["spec"].items() if field not in dropped}
        apply = self.headers.get("Content-Type", "").startswith("application/apply-patch")
        held = sum(one[:2] == key[:2] for one in api.objects)
        if old is None and (apply or method == "POST") and held >= api.quota.get(key[:2], held + 1):
            self._status(403, "Forbidden", "exceeded quota")
            return
        if method == "POST":
            if old is not None:
                self._status(409, "AlreadyExists", f"{name} already exists")
                return
            body["metadata"].setdefault("namespace", target.namespace)
            self._json(201, api.store(key, body))
        elif old is None and not (apply and not target.subresource):
            self._status(404, "NotFound", f"{name} not found")
        elif method == "GET":
            self._json(200, old)
        elif method == "PUT":
            wanted = body["metadata"].get("resourceVersion")
            if old is not None and wanted and wanted != old["metadata"]["resourceVersion"]:
                self._status(409, "Conflict", "the object has been modified")
                return
            self._json(200, api.replace(key, body))
        elif method == "PATCH":
            version = body.get("metadata", {}).pop("resourceVersion", "")
            if old is not None and version and version != old["metadata"]["resourceVersion"]:
                self._status(409, "Conflict", "the object has been modified")
                return
            kept = old or {}
            if apply:
                # Fields that the manager no longer sets are removed.
                owned = (*key, query.get("fieldManager", ""), target.subresource)
                kept = _without(kept, api.applied.get(owned, {}), body)
                api.applied[owned] = body
            self._json(200, api.store(key, _merged(kept, body)))
        elif method == "DELETE":
            uid = (body or {}).get("preconditions", {}).get("uid")
            if old is not None and uid and uid != old["metadata"]["uid"]:
                self._status(409, "Conflict", "the UID in the precondition does not match")
                return
            api.remove(target.collection, name, target.namespace)
            self._json(200, {"kind": "Status", "status": "Success"})

    def _list(self, target: Target, query: dict[str, str]) -> None:
        api = self.server.api
        with api.changed:
            start, _, version = query.get("continue", "0/").partition("/")
            if version and int(version) < api.compacted:
                self._status(410, "Expired", "the continue token is too old")
                return
            items = [obj for key, obj in sorted(api.objects.items()) if _within(key, target) and _selected(obj, query)]
            end = int(start) + int(query.get("limit", len(items) + 1))
            meta = {"resourceVersion": version or str(api.version)}
            if end < len(items):
                meta["continue"] = f"{end}/{meta['resourceVersion']}"
            kind = items[0].get("kind", "") if items else ""
            body = json.dumps({"kind": f"{kind}List", "metadata": meta, "items": items[int(start) : end]}).encode()
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            self._answer(200, gzip.compress(body), {"Content-Encoding": "gzip"})
        else:
            self._answer(200, body, {})

    def _watch(self, target: Target, query: dict[str, str]) -> None:
        api = self.server.api
        seen = int(query["resourceVersion"])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if not api.end_watches_at_once:
            for line in self._events(target, query, seen):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")

    def _events(self, target: Target, query: dict[str, str], seen: int) -> Iterator[bytes]:
        api = self.server.api
        deadline = time.monotonic() + int(query["timeoutSeconds"])
        number = len(api.watches())
        while not api.closing and time.monotonic() < deadline:
            with api.changed:
                if api.is_muted(number):
                    api.changed.wait(0.2)
                    continue
                if seen < api.compacted:
                    yield _line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
                    return
                news = [entry for entry in api.log if entry[0] > seen and entry[2] == target.collection]
                marked = api.bookmarked > seen
                if not news and not marked:
                    api.changed.wait(0.2)
                    continue
                seen = api.version
            for _, type_, _, obj in news:
                if _selected(obj, query) and target.namespace in ("", obj["metadata"].get("namespace", "")):
                    yield _line(type_, obj)
            if marked:
                yield _line("BOOKMARK", {"metadata": {"resourceVersion": str(seen)}})

    def _status(self, code: int, reason: str, message: str) -> None:
        self._json(code, {"kind": "Status", "code": code, "reason": reason, "message": message})

    def _json(self, code: int, body: Any) -> None:
        self._answer(code, json.dumps(body).encode(), {})

    def _answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _target(path: str) -> Target:
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    name, subresource = [*rest[1:], "", ""][:2]
    return Target(rest[0] if rest else "", namespace, name, subresource)


def _within(key: tuple[str, str, str], target: Target) -> bool:
    return key[0] == target.collection and target.namespace in ("", key[1])


def _selected(obj: Object, query: dict[str, str]) -> bool:
    labels = obj["metadata"].get("labels", {})
    terms = re.split(r",(?![^(]*\))", query.get("labelSelector", ""))
    return all(_fits(labels, term) for term in terms if term)


def _fits(labels: dict[str, str], term: str) -> bool:
    if term.startswith("!"):
        return term[1:] not in labels
    among = re.fullmatch(r"(\S+) in \((.*)\)", term)
    if among:
        return labels.get(among[1]) in among[2].split(",")
    name, operator, value = re.fullmatch(r"([^!=]+)(!?=?)(.*)", term).groups()  # type: ignore[union-attr]
    found = labels.get(name)
    return found is not None if not operator else (found == value) is (operator == "=")


def _merged(old: Any, patch: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(patch, dict):
        return patch
    kept = {name: value for name, value in old.items() if name not in patch}
    return kept | {name: _merged(old.get(name), value) for name, value in patch.items() if value is not None}


def _without(old: Any, before: Any, now: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(before, dict) or not isinstance(now, dict):
        return old
    kept = {name: value for name, value in old.items() if name in now or name not in before}
    return {name: _without(value, before.get(name), now.get(name)) for name, value in kept.items()}


def _line(type_: str, obj: Object) -> bytes:
    return json.dumps({"type": type_, "object": obj}).encode() + b"\n"
