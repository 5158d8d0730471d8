"""Entries of the kernel's connection tracking table in netlink's encoding (nfnetlink_conntrack.h).

Only ``connect`` does I/O: every question and every parsed entry is a value.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import struct
from collections.abc import Iterable

from cnf.netlink import connection, wire
from cnf.vip.transaction import NETLINK_NETFILTER
from fleetboard.model.addresses import Address

NEW, GET, DELETE = 0x100, 0x101, 0x102
TUPLE_ORIG, TUPLE_REPLY, STATUS, PROTOINFO, NAT_SRC, TIMEOUT, ID, NAT_DST, STATUS_MASK = 1, 2, 3, 4, 6, 7, 12, 13, 26
NESTED = 0x8000

SEEN_REPLY, ASSURED, CONFIRMED, DST_NAT = 0x2, 0x4, 0x8, 0x20
"""Bits of an entry's status."""

HEAD = struct.Struct(">BBH")
"""struct nfgenmsg: family, version, resource."""

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_IP, _PROTO = 1 | NESTED, 2 | NESTED
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3

# Each attribute is its length, its kind and its value; tens of thousands are parsed and encoded at once.
_TUPLE = {version: struct.Struct(f"=HHHH{size}sHH{size}sHHHHB3xHH2s2xHH2s2x") for version, size in ((4, 4), (6, 16))}
_ADDRESSES = {4: (20, _IP, 8, 1, 8, 2), 6: (44, _IP, 20, 3, 20, 4)}
_PACKED = {4: 4, 6: 16}
_DESTINATION_AFTER = 16
"""Bytes of the entry's first attribute, TUPLE_ORIG, before the destination, besides the source."""
_PORTS = (28, _PROTO, 5, _NUMBER, 6, _SOURCE_PORT, 6, _DESTINATION_PORT)


@dataclasses.dataclass(frozen=True, slots=True)
class FlowEnd:
    """An address and port, packed as in a packet."""

    address: bytes
    port: bytes

    def parse_address(self) -> Address:
        """Return the address as a value."""
        return ipaddress.ip_address(self.address)

    @property
    def port_number(self) -> int:
        """The port as a number."""
        return int.from_bytes(self.port, "big")


@dataclasses.dataclass(frozen=True, slots=True)
class Flow:
    """One direction of a connection."""

    protocol: int
    source: FlowEnd
    destination: FlowEnd

    def reversed(self) -> Flow:
        """Return the other direction of an untranslated connection."""
        return Flow(self.protocol, self.destination, self.source)

    def encode(self, kind: int) -> bytes:
        """Encode it as the attribute TUPLE_ORIG or TUPLE_REPLY."""
        version = 4 if len(self.source.address) == 4 else 6
        whole, ip, of_source, source, of_destination, destination = _ADDRESSES[version]
        return wire.attribute(
            kind | NESTED,
            _TUPLE[version].pack(
                *(whole, ip, of_source, source, self.source.address),
                *(of_destination, destination, self.destination.address),
                *(*_PORTS[:4], self.protocol),
                *(*_PORTS[4:6], self.source.port, *_PORTS[6:], self.destination.port),
            ),
        )


def connect() -> connection.Connection:
    """Open a connection to the table of the calling thread's network namespace."""
    return connection.Connection(
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    )


def head(version: int) -> bytes:
    """Return the head of every message about that address family."""
    return HEAD.pack(_FAMILY[version], 0, 0)


def parse_head(body: bytes) -> int:
    """Return the address family, 4 or 6, of an entry; 0 when it is neither."""
    family = body[0] if body else 0
    return next((version for version, number in _FAMILY.items() if number == family), 0)


def dump(version: int, *, status: int = 0) -> wire.Message:
    """Ask for all entries, or for those with these bits of status; kernels before 5.18 return all anyway."""
    only = wire.attribute(STATUS, be32(status)) + wire.attribute(STATUS_MASK, be32(status)) if status else b""
    return wire.Message(GET, wire.Flag.REQUEST | wire.Flag.DUMP, head(version) + only, "list tracked connections")


def protocol_bytes(protocol: int) -> bytes:
    """Return how an entry encodes a flow's protocol: rules out most others before parsing them."""
    return wire.u8(_NUMBER, protocol)[:5]


def peek_destination(body: bytes, version: int) -> bytes:
    """Return the packed address that an entry's client sends to, given the kernel's layout; any bytes otherwise.

    Rules out other entries before parsing them.
    """
    size = _PACKED[version]
    start = HEAD.size + _DESTINATION_AFTER + size
    return body[start : start + size]


def parse_flow(attribute: bytes, version: int) -> Flow | None:
    """Parse TUPLE_ORIG or TUPLE_REPLY; None without ports, or without the kernel's layout."""
    layout = _TUPLE[version]
    if len(attribute) != layout.size:
        return None
    values = layout.unpack(attribute)
    if values[:4] + values[5:7] + values[8:12] + values[13:15] + values[16:18] != _ADDRESSES[version] + _PORTS:
        return None
    return Flow(values[12], FlowEnd(values[4], values[15]), FlowEnd(values[7], values[18]))


def be32(value: int) -> bytes:
    """Encode a number as conntrack does."""
    return struct.pack(">I", value)


def parse_be32(payload: bytes | None) -> int:
    """Decode a number of conntrack's; 0 when it is missing or cut off."""
    return int(struct.unpack(">I", payload)[0]) if payload is not None and len(payload) == 4 else 0


def join(bodies: Iterable[bytes]) -> bytes:
    """Frame entries as the kernel sends them; ``wire.answers`` splits them again."""
    parts: list[bytes] = []
    for body in bodies:
        length = wire.HEADER.size + len(body)
        parts += (wire.HEADER.pack(length, NEW, 0, 0, 0), body, bytes(-length % 4))
    return b"".join(parts)
