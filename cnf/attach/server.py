"""The unix socket that the node's CNI executable calls.

Invariant: only uid 0 is served. Every accepted call gets an answer or a closed connection, and a call whose answer
can't be delivered is undone.

ADDs run in threads of their own: they may wait for a block of addresses, and no other call waits behind them.
"""

from __future__ import annotations

import array
import concurrent.futures
import contextlib
import logging
import os
import pathlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

from cnf.attach import errors, frames, protocol, results
from cnf.netlink.errors import NamespaceError
from cnf.netlink.namespace import NetworkNamespace

log = logging.getLogger(__name__)

_WORKERS = 16
_ADDERS = 48
MAX_OPEN = 512
_READ_S = 10.0
_TICK_MS = 200
_WARN_AGAIN_S = 10.0

Serve = Callable[[frames.Request], frames.Response]


class CniServer:
    """Accepts calls and hands them to ``call`` on a bounded number of threads."""

    def __init__(self, path: pathlib.Path, call: Serve, *, allowed_uid: int = 0, max_open: int = MAX_OPEN) -> None:
        """``run`` creates the socket, which only its owner can use. A call beyond ``max_open`` is closed unanswered."""
        self._path = path
        self._call = call
        self._allowed_uid = allowed_uid
        self._max_open = max_open
        self._slots = threading.BoundedSemaphore(max_open)
        self._warned_at = float("-inf")
        self.listening = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set, then finish the calls in progress."""
        with (
            _listen(self._path) as listener,
            concurrent.futures.ThreadPoolExecutor(_ADDERS, thread_name_prefix="cni add") as adders,
            concurrent.futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="cni") as workers,
        ):
            self.listening.set()
            poller = select.poll()
            poller.register(listener, select.POLLIN)
            while not stop.is_set():
                if poller.poll(_TICK_MS):
                    with contextlib.suppress(OSError):  # the caller left between poll and accept
                        self._accept(listener.accept()[0], workers, adders)
            self.listening.clear()

    def _accept(
        self, sock: socket.socket, workers: concurrent.futures.Executor, adders: concurrent.futures.Executor
    ) -> None:
        if not self._slots.acquire(blocking=False):
            sock.close()
            self._warn_full()
            return
        workers.submit(self._serve, sock, adders)

    def _warn_full(self) -> None:
        now = time.monotonic()
        if now - self._warned_at >= _WARN_AGAIN_S:
            self._warned_at = now
            log.warning("closed a CNI call unanswered: too many calls are open", extra={"open": self._max_open})

    def _serve(self, sock: socket.socket, adders: concurrent.futures.Executor) -> None:
        with _reported(), contextlib.ExitStack() as opened:
            opened.callback(self._slots.release)
            opened.enter_context(sock)
            _, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != self._allowed_uid:
                log.warning("refused a CNI call: its caller is not root", extra={"uid": uid})
                return
            env, stdin, namespace = _receive(sock)
            if namespace is not None:
                opened.enter_context(namespace)
            request = frames.Request(env, stdin, namespace, cancelled=lambda: _hung_up(sock))
            if env.get("CNI_COMMAND") == "ADD":
                adders.submit(self._answer, sock, request, opened.pop_all())
            else:
                self._answer(sock, request, opened.pop_all())

    def _answer(self, sock: socket.socket, request: frames.Request, opened: contextlib.ExitStack) -> None:
        with _reported(), opened:
            response = self._respond(request)
            try:
                sock.settimeout(_READ_S)
                sock.sendall(response.encode())
            except OSError as err:
                extra = {**_call_of(request), "error": str(err)}
                log.warning("could not deliver the answer to a CNI call; if it was an ADD, it is undone", extra=extra)
                response.undo()

    def _respond(self, request: frames.Request) -> frames.Response:
        try:
            return self._call(request)
        except Exception as err:
            log.exception("CNI call failed", extra=_call_of(request))
            message = 'cnf failed unexpectedly: see its log on this node (container cnf, "CNI call failed")'
            refusal = errors.CallRefusedError(errors.Code.INTERNAL, message, repr(err))
            return frames.Response(1, results.render_error(protocol.echo_version(request.stdin), refusal))


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Log any failure of a thread that serves a call, and end its work."""
    try:
        yield
    except errors.FrameError as err:
        log.warning("refused a malformed CNI call", extra={"error": str(err)})
    except OSError as err:
        log.info("could not read a CNI call", extra={"error": str(err)})
    except Exception:
        log.exception("a thread of the CNI server failed")


def _call_of(request: frames.Request) -> dict[str, str]:
    """Return the fields of a log line about a call, none of which has been checked."""
    args = dict(pair.partition("=")[::2] for pair in request.env.get("CNI_ARGS", "").split(";"))
    return {
        "verb": request.env.get("CNI_COMMAND", ""),
        "container": request.env.get("CNI_CONTAINERID", ""),
        "interface": request.env.get("CNI_IFNAME", ""),
        "pod": f"{args.get('K8S_POD_NAMESPACE', '')}/{args.get('K8S_POD_NAME', '')}".strip("/"),
    }


@contextlib.contextmanager
def _listen(path: pathlib.Path) -> Iterator[socket.socket]:
    """Bind under another name and rename: the path always leads to a socket, and never to one with wrong rights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
        listener.bind(str(draft))
        draft.chmod(0o600)
        listener.listen(256)
        created = draft.stat()
        draft.rename(path)
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == created.st_ino:  # not that of the cnf after this one
                    path.unlink()


def _hung_up(sock: socket.socket) -> bool:
    poller = select.poll()
    poller.register(sock, select.POLLRDHUP)
    return any(events & (select.POLLHUP | select.POLLERR | select.POLLRDHUP) for _, events in poller.poll(0))


def _receive(sock: socket.socket) -> tuple[dict[str, str], bytes, NetworkNamespace | None]:
    """Read one request, and the descriptor that is attached to its first byte."""
    deadline = time.monotonic() + _READ_S
    sock.settimeout(_READ_S)
    space = socket.CMSG_SPACE(array.array("i").itemsize)
    content, ancillary, _, _ = sock.recvmsg(1 << 16, space, socket.MSG_CMSG_CLOEXEC)
    namespace = _take_namespace(ancillary)
    try:
        line, newline, rest = content.partition(b"\n")
        while not newline and len(content) < frames.MAX_HEAD:
            content += _more(sock, deadline)
            line, newline, rest = content.partition(b"\n")
        head = frames.parse_head(line)
        parts, missing = [rest], head.length - len(rest)
        while missing > 0:
            parts.append(_more(sock, deadline))
            missing -= len(parts[-1])
        body = b"".join(parts)
        return frames.parse_env(body[: head.env_length]), body[head.env_length : head.length], namespace
    except BaseException:
        if namespace is not None:
            namespace.close()
        raise


def _more(sock: socket.socket, deadline: float) -> bytes:
    sock.settimeout(max(0.01, deadline - time.monotonic()))
    chunk = sock.recv(1 << 16)
    if not chunk:
        raise errors.FrameError("the caller hung up before its request was complete")
    return chunk


def _take_namespace(ancillary: list[tuple[int, int, bytes]]) -> NetworkNamespace | None:
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    for surplus in descriptors[1:]:
        os.close(surplus)
    if not descriptors:
        return None
    try:
        return NetworkNamespace(descriptors[0], label="CNI_NETNS")
    except NamespaceError:
        return None  # a plain file where a namespace was: DEL works without one, ADD is refused
