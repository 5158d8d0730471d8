"""Netlink's bytes, and a connection's handling of the kernel's answers; a socket pair plays the kernel."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnf.netlink import connection, errors, wire

NOOP = wire.Message(16, wire.Flag.ACK, b"body", "do it")


def answer(sequence: int, code: int = 0, *, detail: str = "") -> bytes:
    flags = int(wire.Flag.CAPPED | wire.Flag.ACK_TLVS) if detail else int(wire.Flag.CAPPED)
    body = struct.pack("=i", -code) + wire.HEADER.pack(16, 16, 5, sequence, 0)
    body += wire.text(1, detail) if detail else b""
    head = wire.HEADER.pack(16 + len(body), wire.ERROR, flags, sequence, 0)
    return head + body + bytes(-len(body) % 4)


@pytest.fixture
def ends() -> Iterator[tuple[connection.Connection, socket.socket]]:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with connection.Connection(ours, timeout_s=0.2) as made, kernel:
        yield made, kernel


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40)))
def test_attributes_are_read_back(wanted: dict[int, bytes]) -> None:
    encoded = b"".join(wire.attribute(kind, payload) for kind, payload in wanted.items())
    assert len(encoded) % 4 == 0
    assert wire.attributes(encoded) == wanted


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_without_end_or_exception(noise: bytes) -> None:
    wire.attributes(noise)
    for found in wire.answers(noise):
        assert isinstance(found.body, bytes)


def test_a_batch_is_one_send_and_takes_one_answer_each(ends: tuple[connection.Connection, socket.socket]) -> None:
    ours, kernel = ends
    kernel.send(answer(1) + answer(2) + answer(3))
    ours.send([NOOP, NOOP, NOOP])
    sent = list(wire.answers(kernel.recv(4096)))
    assert [(m.type, m.sequence, m.body) for m in sent] == [(16, n, b"body") for n in (1, 2, 3)]


def test_the_first_failure_is_raised_and_later_answers_are_still_read(
    ends: tuple[connection.Connection, socket.socket],
) -> None:
    ours, kernel = ends
    kernel.send(answer(1) + answer(2, errno.EEXIST, detail="already there") + answer(3, errno.EPERM))
    with pytest.raises(errors.ExistsError, match=r"do it: File exists \(already there\)"):
        ours.send([NOOP, NOOP, NOOP])
    kernel.send(answer(4))
    ours.send([NOOP])


def test_a_tolerated_errno_is_no_failure(ends: tuple[connection.Connection, socket.socket]) -> None:
    ours, kernel = ends
    kernel.send(answer(1, errno.ENODEV))
    ours.send([wire.Message(17, wire.Flag.ACK, b"", "delete", frozenset({errno.ENODEV}))])


def test_a_silent_kernel_ends_the_connection(ends: tuple[connection.Connection, socket.socket]) -> None:
    ours, _ = ends
    with pytest.raises(errors.SilentKernelError):
        ours.send([NOOP])
    assert not ours.usable


def test_an_answer_to_an_older_request_is_passed_over(ends: tuple[connection.Connection, socket.socket]) -> None:
    ours, kernel = ends
    kernel.send(answer(0, errno.EPERM))
    kernel.send(answer(1))
    ours.send([NOOP])


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EEXIST, errors.ExistsError),
        (errno.ENODEV, errors.AbsentError),
        (errno.ESRCH, errors.AbsentError),
        (errno.EBUSY, errors.BusyError),
        (errno.EPERM, errors.DeniedError),
        (errno.EINVAL, errors.RefusedError),
    ],
)
def test_each_errno_has_its_class(code: int, kind: type[errors.RefusedError]) -> None:
    made = errors.refused(code, "try")
    assert type(made) is kind
    assert made.code == code
