"""Netlink's bytes: messages, attributes, answers (include/uapi/linux/netlink.h).

Nothing here does I/O: every encoding is a value that a test can compare.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Iterator

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""

_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
_ERRNO = struct.Struct("=i")

ERROR = 2
DONE = 3

_EXTACK_MESSAGE = 1


class Flag(enum.IntFlag):
    """nlmsg_flags."""

    REQUEST = 0x1
    MULTI = 0x2
    ACK = 0x4
    DUMP_INTERRUPTED = 0x10
    CAPPED = 0x100
    ACK_TLVS = 0x200
    # For requests that create.
    REPLACE = 0x100
    EXCLUSIVE = 0x200
    CREATE = 0x400
    # For requests that get.
    DUMP = 0x300


PUT = Flag.ACK | Flag.CREATE | Flag.REPLACE
"""Create or replace. A constant, because an ADD sends a dozen messages and joining flags takes a microsecond."""
_REQUEST = int(Flag.REQUEST)


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One request without its sequence number; a plan is a list of these.

    ``tolerate`` holds errnos that mean success, such as ENODEV when deleting.
    """

    type: int
    flags: Flag
    body: bytes
    action: str
    tolerate: frozenset[int] = frozenset()

    def encode(self, sequence: int) -> bytes:
        """Return the message's bytes."""
        return HEADER.pack(HEADER.size + len(self.body), self.type, int(self.flags) | _REQUEST, sequence, 0) + self.body


@dataclasses.dataclass(frozen=True, slots=True)
class KernelMessage:
    """One message from the kernel."""

    type: int
    flags: int
    sequence: int
    body: bytes

    @property
    def code(self) -> int:
        """The errno of an ERROR or DONE message as a positive number; 0 is an acknowledgement."""
        return -int(_ERRNO.unpack_from(self.body)[0]) if len(self.body) >= _ERRNO.size else 0

    @property
    def detail(self) -> str:
        """The kernel's own message (extended acknowledgement), or an empty string."""
        if not self.flags & Flag.ACK_TLVS:
            return ""
        # An error that isn't capped repeats the whole request before the attributes.
        skip = HEADER.size if self.flags & Flag.CAPPED else int(HEADER.unpack_from(self.body, _ERRNO.size)[0])
        text = attributes(self.body[_ERRNO.size + skip :]).get(_EXTACK_MESSAGE, b"")
        return text.rstrip(b"\0").decode(errors="replace")


def attribute(kind: int, payload: bytes) -> bytes:
    """Encode one attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def nested(kind: int, *members: bytes) -> bytes:
    """Encode an attribute that holds attributes."""
    return attribute(kind, b"".join(members))


def u32(kind: int, value: int) -> bytes:
    """Encode an unsigned 32-bit attribute."""
    return attribute(kind, struct.pack("=I", value))


def u8(kind: int, value: int) -> bytes:
    """Encode an unsigned 8-bit attribute."""
    return attribute(kind, struct.pack("=B", value))


def text(kind: int, value: str) -> bytes:
    """Encode a string attribute, ended by NUL."""
    return attribute(kind, value.encode() + b"\0")


def attributes(buffer: bytes) -> dict[int, bytes]:
    """Parse consecutive attributes; the last of equal ones counts."""
    parsed: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(buffer):
        length, kind = _ATTRIBUTE.unpack_from(buffer, offset)
        if length < _ATTRIBUTE.size:
            break
        parsed[kind & _TYPE_MASK] = buffer[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return parsed


def parse_string(payload: bytes) -> str:
    """Decode a string attribute."""
    return payload.split(b"\0", 1)[0].decode(errors="replace")


def parse_u32(payload: bytes) -> int:
    """Decode an unsigned 32-bit attribute."""
    return int(struct.unpack("=I", payload[:4])[0])


def answers(buffer: bytes) -> Iterator[KernelMessage]:
    """Split the bytes of one recv into messages."""
    offset = 0
    while offset + HEADER.size <= len(buffer):
        length, kind, flags, sequence, _ = HEADER.unpack_from(buffer, offset)
        if length < HEADER.size:
            break
        yield KernelMessage(kind, flags, sequence, buffer[offset + HEADER.size : offset + length])
        offset += (length + 3) & ~3
