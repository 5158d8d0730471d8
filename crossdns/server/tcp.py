"""Answers over TCP (RFC 7766): one loop over all connections, in a process of its own.

Invariant: clients can hold a bounded number of connections, each silent for a bounded time, with a bounded number of
bytes left unread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import selectors
import socket
import time
from collections.abc import Callable, Iterable

from crossdns.server import counters, udp
from crossdns.server.answerer import Answerer

CONNECTIONS_MAX = 512
IDLE_S = 10.0
# Bytes of answers that one client may leave unread before its queries wait.
_UNSENT_MAX = 1 << 18
_BACKLOG = 128


def listen(family: socket.AddressFamily, port: int, held: contextlib.ExitStack) -> socket.socket:
    """Bind the port of one address family; ``held`` closes it."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    held.enter_context(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family is socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("", port))
    sock.listen(_BACKLOG)
    return sock


@dataclasses.dataclass(slots=True, eq=False)
class _TcpConnection:
    sock: socket.socket
    last_query: float
    received: bytearray = dataclasses.field(default_factory=bytearray)
    unsent: bytearray = dataclasses.field(default_factory=bytearray)
    ended: bool = False


class TcpServer:
    """The loop and its connections."""

    def __init__(
        self,
        answerer: Answerer,
        counts: memoryview,
        *,
        connections_max: int = CONNECTIONS_MAX,
        idle_s: float = IDLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answerer, self._counts = answerer, counts
        self._connections_max, self._idle_s, self._clock = connections_max, idle_s, clock
        self._selector = selectors.DefaultSelector()
        # In the order of their last query: the first one is closed to make room.
        self._connections: dict[_TcpConnection, None] = {}

    def serve(self, listeners: Iterable[socket.socket]) -> None:
        """Answer queries, forever."""
        for listener in listeners:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, None)
        while True:
            for key, ready in self._selector.select(timeout=1.0):
                if key.data is None:
                    assert isinstance(key.fileobj, socket.socket)
                    self._accept(key.fileobj)
                elif key.data in self._connections:
                    self._work(key.data, ready)
            self._expire()

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        # The client is gone again, or the process has no descriptor left until a connection ends.
        except OSError:
            return
        sock.setblocking(False)
        if len(self._connections) >= self._connections_max:
            self._counts[counters.REFUSED_CONNECTIONS] += 1
            self._close(next(iter(self._connections)))
        connection = _TcpConnection(sock, self._clock())
        self._connections[connection] = None
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _work(self, connection: _TcpConnection, ready: int) -> None:
        try:
            if ready & selectors.EVENT_READ:
                self._read(connection)
            self._flush(connection)
            while self._answer(connection):
                self._flush(connection)
        except BlockingIOError:
            pass
        except OSError:
            self._close(connection)
            return
        if connection.ended and not connection.unsent:
            self._close(connection)
            return
        wanted = selectors.EVENT_WRITE if connection.unsent else 0
        if not connection.ended and len(connection.unsent) < _UNSENT_MAX:
            wanted |= selectors.EVENT_READ
        self._selector.modify(connection.sock, wanted, connection)

    def _read(self, connection: _TcpConnection) -> None:
        received = connection.sock.recv(1 << 14)
        connection.received += received
        connection.ended = connection.ended or not received

    def _answer(self, connection: _TcpConnection) -> bool:
        """Answer complete queries while the client reads its answers; return whether there was any.

        A message that gets no reply ends the connection.
        """
        received, answered = connection.received, False
        while len(received) >= 2 and len(connection.unsent) < _UNSENT_MAX:
            end = 2 + (received[0] << 8 | received[1])
            if len(received) < end:
                break
            data = bytes(received[2:end])
            del received[:end]
            reply = self._answerer.plain(data, udp=False) or udp.answer_odd(
                self._answerer, data, self._counts, udp=False
            )
            if reply is None:
                received.clear()
                connection.ended = True
                break
            answered = True
            # Only a complete query counts: a byte now and then must not keep the connection.
            connection.last_query = self._clock()
            self._connections[connection] = self._connections.pop(connection)
            self._counts[reply[3] & 0x0F] += 1
            connection.unsent += len(reply).to_bytes(2, "big") + reply
        return answered

    def _flush(self, connection: _TcpConnection) -> None:
        while connection.unsent:
            sent = connection.sock.send(connection.unsent)
            del connection.unsent[:sent]

    def _expire(self) -> None:
        limit = self._clock() - self._idle_s
        while self._connections:
            oldest = next(iter(self._connections))
            if oldest.last_query > limit:
                return
            self._close(oldest)

    def _close(self, connection: _TcpConnection) -> None:
        del self._connections[connection]
        self._selector.unregister(connection.sock)
        with contextlib.suppress(OSError):
            connection.sock.close()
