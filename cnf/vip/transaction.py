"""Asks the kernel's nftables over netlink, and hands it transactions (nfnetlink batches).

The kernel accepts all of a batch or nothing.
"""

from __future__ import annotations

import dataclasses
import errno
import socket
import struct
from collections.abc import Iterable

from cnf.netlink import connection, wire
from cnf.netlink import errors as netlink_errors
from cnf.vip import errors, firewall

_SUBSYSTEM = 10
NEW_TABLE, DELETE_TABLE, NEW_ELEMENT, DELETE_ELEMENT, GET_TABLE, GET_CHAIN, GET_OBJECT = (
    (_SUBSYSTEM << 8) | n for n in (0, 2, 12, 14, 1, 4, 19)
)
"""Types of messages (nf_tables.h)."""
HEAD = struct.pack("!BBH", 1, 0, 0)
"""Head of every body (struct nfgenmsg): family inet, version, resource."""
TABLE_NAME = 1
"""First attribute of every message about a table."""
TABLE_FLAGS = 2
DORMANT = 1
"""Flag of a dormant table: no packet meets its chains."""

_CHAIN_NAME = 3
NETLINK_NETFILTER = 12
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_SNDBUFFORCE, _RCVBUFFORCE = 32, 33
_BEGIN, _END = 0x10, 0x11
_BATCH_HEAD = struct.pack("!BBH", 0, 0, _SUBSYSTEM)
_RECEIVE = 1 << 16
_SPARE = 1 << 16
_ANSWERS = 1 << 23
"""Room for the refusals of some thousand messages; memory is used only as they arrive."""
_TIMEOUT_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """A transaction as the kernel reads it.

    Attributes:
        content: Its messages, numbered from 0: the first begins it, the last ends it.
        actions: What each message does, as far as that is known.
    """

    content: bytes
    actions: tuple[str, ...] = ()


def encode(messages: Iterable[wire.Message]) -> Batch:
    """Frame messages, at least one."""
    framed = [wire.Message(_BEGIN, wire.Flag(0), _BATCH_HEAD, "begin a transaction"), *messages]
    # The acknowledgement of the last one says that the kernel is done: otherwise silence would have to mean success.
    framed[-1] = dataclasses.replace(framed[-1], flags=framed[-1].flags | wire.Flag.ACK)
    framed.append(wire.Message(_END, wire.Flag(0), _BATCH_HEAD, "end a transaction"))
    content = b"".join(message.encode(number) for number, message in enumerate(framed))
    return Batch(content, tuple(message.action for message in framed))


def apply(batch: Batch) -> None:
    """Carry out a batch in the calling thread's network namespace.

    Raises:
        RulesetRefusedError: nothing of it is in force.
        NftUnavailableError: the kernel gave no answer; whether the transaction took place is unknown.
    """
    last = sum(1 for _ in wire.answers(batch.content)) - 2
    try:
        with _open_socket() as sock:
            sock.settimeout(_TIMEOUT_S)
            # A transaction is one datagram.
            sock.setsockopt(socket.SOL_SOCKET, _SNDBUFFORCE, len(batch.content) + _SPARE)
            sock.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _ANSWERS)
            sock.send(batch.content)
            failures = read_failures(sock, last)
    except OSError as err:
        raise errors.NftUnavailableError(f"no answer from the kernel's nftables: {err}") from err
    if failures:
        refusals = [errors.KernelRefusal(failure.sequence, _refused(batch, failure)) for failure in failures]
        raise errors.RulesetRefusedError(str(refusals[0].error), refusals)


def connect() -> connection.Connection:
    """Open a connection for questions to the calling thread's network namespace."""
    return connection.Connection(_open_socket())


def table_active(name: str = firewall.NAME) -> bool | None:
    """Return whether packets meet that table in the calling thread's network namespace; None when it doesn't exist.

    Raises:
        NftUnavailableError: the kernel gave no answer.
    """
    attributes = _find(GET_TABLE, wire.text(TABLE_NAME, name), "look for a table")
    if attributes is None:
        return None
    return not int.from_bytes(attributes.get(TABLE_FLAGS, b""), "big") & DORMANT


def chain_exists(table: str, chain: str) -> bool:
    """Return whether the calling thread's network namespace has that chain.

    Raises:
        NftUnavailableError: the kernel gave no answer.
    """
    named = wire.text(TABLE_NAME, table) + wire.text(_CHAIN_NAME, chain)
    return _find(GET_CHAIN, named, "look for a chain") is not None


def _find(question: int, named: bytes, action: str) -> dict[int, bytes] | None:
    """Return the attributes of the object that is asked for, None when it doesn't exist."""
    try:
        with connect() as link:
            answers = link.ask(wire.Message(question, wire.Flag.REQUEST, HEAD + named, action))
    except netlink_errors.AbsentError:
        return None
    except (netlink_errors.NetlinkError, OSError) as err:
        raise errors.NftUnavailableError(f"tables and chains can't be listed: {err}") from err
    return wire.attributes(answers[0].body[len(HEAD) :]) if answers else {}


def _open_socket() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    for option in (_CAP_ACK, _EXT_ACK):
        sock.setsockopt(_SOL_NETLINK, option, 1)
    return sock


def _refused(batch: Batch, failure: wire.KernelMessage) -> netlink_errors.RefusedError:
    action = batch.actions[failure.sequence] if failure.sequence < len(batch.actions) else "a transaction"
    return netlink_errors.refused(failure.code, action, failure.detail)


def read_failures(sock: socket.socket, last: int) -> list[wire.KernelMessage]:
    """Return all that the kernel refused, in the order of the batch; empty when it accepted all."""
    failures: list[wire.KernelMessage] = []
    while True:
        try:
            datagram = sock.recv(_RECEIVE)
        except BlockingIOError:
            if not failures:
                raise
            return failures
        except OSError as err:
            if err.errno != errno.ENOBUFS:
                raise
            # More refusals than the buffer holds; those that fit in arrive before ``send`` returns.
            sock.setblocking(False)
            continue
        for answer in wire.answers(datagram):
            if answer.code:
                failures.append(answer)
            # An errno of the first message is the whole batch's (no permission, no memory): no answer may follow it.
            if answer.sequence == last or (answer.code and answer.sequence == 0):
                return failures
