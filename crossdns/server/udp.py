"""Answers datagrams: one blocking loop per socket, which is measurably faster than an event loop.

Invariant: no datagram ends the loop, whatever it holds.
"""

from __future__ import annotations

import contextlib
import logging
import socket

from crossdns.server import counters, odd
from crossdns.server.answerer import Answerer

log = logging.getLogger(__name__)

# No query is near this long; a longer datagram is cut and then refused as malformed.
_RECEIVE_MAX = 4096


def listen(family: socket.AddressFamily, port: int, held: contextlib.ExitStack) -> socket.socket:
    """Bind one of several sockets that share the port; the kernel spreads clients over them. ``held`` closes it."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    held.enter_context(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    if family is socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("", port))
    return sock


def serve(sock: socket.socket, answerer: Answerer, counts: memoryview) -> None:
    """Answer queries, forever."""
    receive, send, plain = sock.recvfrom, sock.sendto, answerer.plain
    while True:
        data, client = receive(_RECEIVE_MAX)
        reply = plain(data, udp=True) or answer_odd(answerer, data, counts, udp=True)
        if reply is None:
            continue
        try:
            send(reply, client)
        # A client that can't be reached, such as one at port 0, must not end the loop.
        except OSError:
            counts[counters.DROPPED] += 1
            continue
        counts[reply[3] & 0x0F] += 1
        if reply[2] & 0x02:
            counts[counters.TRUNCATED] += 1


def answer_odd(answerer: Answerer, data: bytes, counts: memoryview, *, udp: bool) -> bytes | None:
    """Answer a message that is no plain question, and count it."""
    counts[counters.UNPLAIN] += 1
    try:
        reply = odd.answer(answerer, data, udp=udp)
    except Exception:
        counts[counters.FAILED] += 1
        # Logged once per process: a hostile sender could fill the log.
        if counts[counters.FAILED] == 1:
            log.exception("a message could not be answered", extra={"message_hex": data[:512].hex()})
        return None
    if reply is None:
        counts[counters.DROPPED] += 1
    return reply
