"""Connections through virtual addresses: read from the kernel's tracking table, and restored into a new one.

The tracking table dies with cnf's network namespace. A client that sends gets the same endpoint again by the hash. An
endpoint that sends first would reach its client under its own address, and the client would reset the connection: of 40
such connections 40 died with the pod. Invariant: only translated connections are read, and a restored entry never
replaces an existing one.
"""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import socket
from collections.abc import Iterable, Iterator

from cnf.netlink import connection, wire
from cnf.netlink import errors as netlink_errors
from cnf.vip import errors, tracking
from cnf.vip.tracking import FlowEnd

log = logging.getLogger(__name__)

MAX_ENTRIES = 10_000
"""Maximum of saved entries: restoring as many takes 0.3 to 0.5 s, and pods wait for it."""

_BATCH = 64
_TCP, _TCP_STATE, _TCP_FLAGS_ORIG, _TCP_FLAGS_REPLY = 1, 1, 4, 5
_LIBERAL = bytes((0x08, 0x08))
"""Flags and their mask: windows are not checked, since the new table doesn't know those of the former one."""
_ADDRESSES = {4: (1, 2), 6: (4, 5)}
_NAT_PROTO, _NAT_PORTS = 3, (1, 2)
_CREATE = wire.Flag.REQUEST | wire.Flag.ACK | wire.Flag.CREATE | wire.Flag.EXCLUSIVE


def _in_state(state: int) -> bytes:
    """Return how an entry encodes a TCP state; the one similar attribute is the protocol, which has other numbers."""
    return wire.u8(_TCP_STATE, state)[:5]


_ESTABLISHED = _in_state(3)
_ENDED = _in_state(7), _in_state(8)
"""TIME_WAIT and CLOSE: with short connections, most entries are in these states."""


def read() -> bytes:
    """Return the translated connections of the calling thread's namespace, as the kernel lists them.

    Raises:
        ConntrackError: the kernel didn't list them.
    """
    entries: list[bytes] = []
    try:
        with tracking.connect() as link:
            for version in (4, 6):
                entries += [answer.body for answer in link.ask(tracking.dump(version, status=tracking.DST_NAT))]
    except (netlink_errors.NetlinkError, OSError) as err:
        raise errors.ConntrackError(f"tracked connections can't be listed: {err}") from err
    return tracking.join(select(entries))


def select(entries: Iterable[bytes]) -> Iterator[bytes]:
    """Return the entries to save, ``MAX_ENTRIES`` at most: translated and alive, established TCP first."""
    living = [body for body in entries if not any(state in body for state in _ENDED)]
    if len(living) > MAX_ENTRIES:
        # Other clients start again, or find their endpoint by the hash.
        living.sort(key=lambda body: _ESTABLISHED not in body)
    # Kernels before 5.18 list the untranslated too.
    return itertools.islice(filter(_is_translated, living), MAX_ENTRIES)


def restore(saved: bytes, *, age_s: float) -> int:
    """Create the connections of ``read`` in the calling thread's namespace; return their number.

    Entries that ended meanwhile, or that can't be parsed, are left out. The translation must be in force already.

    Raises:
        ConntrackError: the kernel tracks no connections, or doesn't answer.
    """
    messages = list(plan_restore(saved, age_s=age_s))
    refused: netlink_errors.RefusedError | None = None
    try:
        with tracking.connect() as link:
            for start in range(0, len(messages), _BATCH):
                refused = _send(link, messages[start : start + _BATCH]) or refused
    except (netlink_errors.NetlinkError, OSError) as err:
        raise errors.ConntrackError(f"tracked connections can't be restored: {err}") from err
    if refused is not None:
        log.warning("could not restore some connections", extra={"error": str(refused)})
    return len(messages)


def plan_restore(saved: bytes, *, age_s: float) -> Iterator[wire.Message]:
    """Return the messages that restore each entry, which is ``age_s`` older than when it was read."""
    for answer in wire.answers(saved):
        message = _plan_entry(answer.body, age_s)
        if message is not None:
            yield message


def _send(link: connection.Connection, messages: list[wire.Message]) -> netlink_errors.RefusedError | None:
    try:
        link.send(messages)
    except netlink_errors.RefusedError as err:
        return err  # the rest of the batch was carried out
    return None


def _is_translated(body: bytes) -> bool:
    attributes = wire.attributes(body[tracking.HEAD.size :])
    return bool(tracking.parse_be32(attributes.get(tracking.STATUS)) & tracking.DST_NAT)


def _plan_entry(body: bytes, age_s: float) -> wire.Message | None:
    version = tracking.parse_head(body)
    attributes = wire.attributes(body[tracking.HEAD.size :])
    status = tracking.parse_be32(attributes.get(tracking.STATUS))
    left_s = tracking.parse_be32(attributes.get(tracking.TIMEOUT)) - age_s
    if not version or left_s < 1 or not status & tracking.DST_NAT:
        return None
    asked = tracking.parse_flow(attributes.get(tracking.TUPLE_ORIG, b""), version)
    answered = tracking.parse_flow(attributes.get(tracking.TUPLE_REPLY, b""), version)
    if asked is None or answered is None:
        return None
    state = _protocol_state(asked.protocol, attributes.get(tracking.PROTOINFO, b""))
    if state is None:
        return None
    kept = status & (tracking.SEEN_REPLY | tracking.ASSURED)
    parts = (
        tracking.head(version),
        asked.encode(tracking.TUPLE_ORIG),
        # As if untranslated: the kernel derives the translated direction from the two below, and marks the entry.
        asked.reversed().encode(tracking.TUPLE_REPLY),
        _translation(tracking.NAT_DST, answered.source),
        _translation(tracking.NAT_SRC, answered.destination) if answered.destination != asked.source else b"",
        wire.attribute(tracking.STATUS, tracking.be32(kept | tracking.CONFIRMED)),
        wire.attribute(tracking.TIMEOUT, tracking.be32(int(left_s))),
        state,
    )
    return wire.Message(
        tracking.NEW, _CREATE, b"".join(parts), "restore a tracked connection", frozenset({errno.EEXIST})
    )


def _translation(kind: int, end: FlowEnd) -> bytes:
    least, most = _ADDRESSES[4 if len(end.address) == 4 else 6]
    ports = wire.nested(_NAT_PROTO | tracking.NESTED, *(wire.attribute(port, end.port) for port in _NAT_PORTS))
    addresses = wire.attribute(least, end.address), wire.attribute(most, end.address)
    return wire.nested(kind | tracking.NESTED, *addresses, ports)


def _protocol_state(protocol: int, info: bytes) -> bytes | None:
    """Return PROTOINFO to send; None for an unknown TCP state."""
    if protocol == socket.IPPROTO_TCP:
        state = wire.attributes(wire.attributes(info).get(_TCP, b"")).get(_TCP_STATE, b"")
        if len(state) != 1:
            return None
        info = _tcp_state(state)
    return wire.attribute(tracking.PROTOINFO | tracking.NESTED, info) if info else b""


@functools.cache
def _tcp_state(state: bytes) -> bytes:
    return wire.nested(
        _TCP | tracking.NESTED,
        wire.attribute(_TCP_STATE, state),
        wire.attribute(_TCP_FLAGS_ORIG, _LIBERAL),
        wire.attribute(_TCP_FLAGS_REPLY, _LIBERAL),
    )
