"""What the kernel answers to a transaction."""

from __future__ import annotations

import errno
import socket
import struct
from typing import cast

from cnf.netlink import wire
from cnf.vip import transaction


def answer(sequence: int, code: int) -> bytes:
    body = struct.pack("=i", -code) + wire.HEADER.pack(wire.HEADER.size, 0, 0, sequence, 0)
    return wire.HEADER.pack(wire.HEADER.size + len(body), wire.ERROR, wire.Flag.CAPPED, sequence, 0) + body


def read(*datagrams: bytes, last: int) -> list[tuple[int, int]]:
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, kernels:
        ours.settimeout(1)
        for datagram in datagrams:
            kernels.send(datagram)
        return [(failure.sequence, failure.code) for failure in transaction.read_failures(ours, last)]


def test_a_batch_that_is_refused_as_a_whole_is_known_by_its_first_message_alone() -> None:
    assert read(answer(0, errno.EPERM), last=7) == [(0, errno.EPERM)]


def test_every_refusal_is_reported_in_the_order_of_the_batch() -> None:
    failures = read(answer(2, errno.ENOENT) + answer(3, errno.EEXIST), answer(7, errno.EINVAL), last=7)

    assert failures == [(2, errno.ENOENT), (3, errno.EEXIST), (7, errno.EINVAL)]


def test_the_last_messages_acknowledgement_is_success() -> None:
    assert read(answer(7, 0), last=7) == []


class Overrun:
    """A socket that had no room for all answers: it says so once, and has none that would come later."""

    def __init__(self, *datagrams: bytes) -> None:
        self.left: list[bytes | OSError] = [OSError(errno.ENOBUFS, "No buffer space available"), *datagrams]
        self.blocking = True

    def setblocking(self, flag: bool) -> None:
        self.blocking = flag

    def recv(self, _size: int) -> bytes:
        if not self.left:
            assert not self.blocking, "this would wait for the answer that was dropped"
            raise BlockingIOError
        found = self.left.pop(0)
        if isinstance(found, OSError):
            raise found
        return found


def test_refusals_that_there_was_no_room_for_dont_hide_those_that_came() -> None:
    sock = cast("socket.socket", Overrun(answer(2, errno.EINVAL), answer(3, errno.EINVAL)))

    assert [failure.sequence for failure in transaction.read_failures(sock, 9000)] == [2, 3]
