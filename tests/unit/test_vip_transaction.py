"""What the kernel answers to a transaction."""

from __future__ import annotations

import errno
import socket
import struct

from cnf.netlink import wire
from cnf.vip import transaction


def answer(sequence: int, code: int) -> bytes:
    body = struct.pack("=i", -code) + wire.HEADER.pack(wire.HEADER.size, 0, 0, sequence, 0)
    return wire.HEADER.pack(wire.HEADER.size + len(body), wire.ERROR, wire.Flag.CAPPED, sequence, 0) + body


def read(*datagrams: bytes, last: int) -> wire.Answer | None:
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, kernels:
        ours.settimeout(1)
        for datagram in datagrams:
            kernels.send(datagram)
        return transaction._read_failure(ours, last)


def test_a_batch_that_is_refused_as_a_whole_is_known_by_its_first_message_alone() -> None:
    failure = read(answer(0, errno.EPERM), last=7)

    assert failure is not None
    assert (failure.sequence, failure.code) == (0, errno.EPERM)


def test_of_several_refusals_the_first_counts() -> None:
    failure = read(answer(2, errno.ENOENT) + answer(3, errno.EEXIST), answer(7, 0), last=7)

    assert failure is not None
    assert (failure.sequence, failure.code) == (2, errno.ENOENT)


def test_the_last_messages_acknowledgement_is_success() -> None:
    assert read(answer(7, 0), last=7) is None
