"""Encodes records as the bytes that follow the question in an answer.

Invariant: every owner is a pointer into the question. The answer then has the client's own spelling of the name (0x20),
and one encoding serves every spelling.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from collections.abc import Iterable, Iterator

from crossdns.zone import zone
from fleetboard.model import addresses

TYPE_A, TYPE_NS, TYPE_SOA, TYPE_HINFO, TYPE_TXT, TYPE_AAAA, TYPE_SRV, TYPE_OPT = 1, 2, 6, 13, 16, 28, 33, 41
TYPE_IXFR, TYPE_AXFR, TYPE_ANY = 251, 252, 255
CLASS_IN = 1

# The question's name follows the header of 12 bytes.
_OWNER = b"\xc0\x0c"
# Room for records in a message of 65535 bytes, beside header, question and OPT.
_ROOM = 65000
_NAME_MAX = 255
# An SRV record up to its port, which precedes the target.
_SRV = struct.Struct("!HHHIHHH")
_SRV_HEAD = _SRV.size + 2


class NameTooLongError(ValueError):
    """A name has a label of more than 63 bytes, or more than 255 bytes in all: it can't exist in the DNS."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The answer section of one question, the same in every zone.

    Attributes:
        count: Number of records; 0 for SRV, whose records contain the zone's name: ``expand`` makes them for one zone.
        records: The encoded records; for SRV, for each target its port, the length of its host and the host relative to
            the zone.
        step: Length of each record when they may be rotated, else 0.
    """

    count: int
    records: bytes
    step: int = 0


def name(text: str) -> bytes:
    """Encode a dotted name in lower case; the empty text is the root."""
    labels = [label.encode() for label in text.lower().rstrip(".").split(".") if label]
    if any(len(label) > 63 for label in labels):
        raise NameTooLongError(f"a label of {text!r} is longer than 63 bytes")
    encoded = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(encoded) > _NAME_MAX:
        raise NameTooLongError(f"{text!r} is longer than {_NAME_MAX} bytes")
    return encoded


def relative(text: str) -> bytes:
    """Encode a dotted name that is relative to a zone: its labels, without the root."""
    return name(text)[:-1]


def question(owner: bytes, type_: int) -> bytes:
    """Return the question for a name relative to the zone, the key of its answer: name, type and class."""
    return owner + struct.pack("!HH", type_, CLASS_IN)


def record(type_: int, ttl_s: int, content: bytes, *, owner: bytes = _OWNER) -> bytes:
    """Encode one resource record."""
    return owner + struct.pack("!HHIH", type_, CLASS_IN, ttl_s, len(content)) + content


def answers(owner: bytes, records: zone.Records) -> Iterator[tuple[bytes, Answer]]:
    """Iterate over (question, answer) of one name: A, AAAA and SRV, where it has records."""
    for type_, version in ((TYPE_A, 4), (TYPE_AAAA, 6)):
        found = records.of_version(version)
        if found:
            yield question(owner, type_), _address_answer(type_, found)
    targets = b"".join(_targets(records.targets))
    if targets:
        yield question(owner, TYPE_SRV), Answer(0, targets)


def _address_answer(type_: int, found: tuple[addresses.Address, ...]) -> Answer:
    encoded = _join(record(type_, zone.TTL_S, address.packed) for address in found)
    step = 12 + len(found[0].packed) if encoded.count > 1 else 0
    return dataclasses.replace(encoded, step=step)


def _targets(targets: Iterable[zone.SrvTarget]) -> Iterator[bytes]:
    for target in targets:
        with contextlib.suppress(NameTooLongError):
            host = relative(target.host)
            yield struct.pack("!HB", target.port, len(host)) + host


def expand(targets: bytes, apex: bytes, *, room: int) -> tuple[int, bytes, bool]:
    """Make SRV records in one zone: (how many, records, whether some did not fit into ``room``).

    A host whose name is too long for the zone gets no record.
    """
    room = min(room, _ROOM)
    made: list[bytes] = []
    at = length = 0
    while at < len(targets):
        end = at + 3 + targets[at + 2]
        host_length = end - at - 3 + len(apex)
        if host_length <= _NAME_MAX:
            length += _SRV_HEAD + host_length
            if length > room:
                return len(made), b"".join(made), True
            # Priority 0 and equal weights; RFC 2782 forbids compression of the target.
            fixed = _SRV.pack(0xC00C, TYPE_SRV, CLASS_IN, zone.TTL_S, 6 + host_length, 0, 100)
            made.append(fixed + targets[at : at + 2] + targets[at + 3 : end] + apex)
        at = end
    return len(made), b"".join(made), False


def _join(encoded: Iterable[bytes]) -> Answer:
    """Join as many records as one message holds: clients may get a subset."""
    kept, length = [], 0
    for item in encoded:
        length += len(item)
        if length > _ROOM:
            break
        kept.append(item)
    return Answer(len(kept), b"".join(kept))


def text(value: str) -> bytes:
    """Encode one character string of TXT or HINFO content."""
    return bytes((len(value),)) + value.encode()


def soa_content(*, server: str, zone_name: str, serial: int) -> bytes:
    """Encode the content of the zone's SOA record; its minimum says how long resolvers keep NODATA and NXDOMAIN."""
    timers = struct.pack("!IIIII", serial & 0xFFFFFFFF, 7200, 1800, 86400, zone.TTL_S)
    return name(server) + name(f"hostmaster.{zone_name}") + timers
