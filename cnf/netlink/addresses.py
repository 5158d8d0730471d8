"""Addresses on interfaces (include/uapi/linux/if_addr.h).

Putting an address that exists already changes nothing and is no error.
"""

from __future__ import annotations

import struct

from cnf.netlink import connection, wire
from cnf.netlink.wire import Flag, Message
from fleetboard.model.addresses import Address

_NEWADDR, _GETADDR = 20, 22
_INFO = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, index."""
_ADDRESS, _LOCAL, _FLAGS = 1, 2, 8
_NO_DUPLICATE_DETECTION, _NO_PREFIX_ROUTE = 0x02, 0x200

FAMILY = {4: 2, 6: 10}
"""Address families by IP version: AF_INET, AF_INET6."""
BITS = {4: 32, 6: 128}


def put(index: int, address: Address) -> Message:
    """Return the message that gives an interface one address, /32 or /128.

    There is no duplicate detection, because nobody shares the link.
    """
    flags = _NO_PREFIX_ROUTE | (_NO_DUPLICATE_DETECTION if address.version == 6 else 0)
    return Message(
        _NEWADDR,
        wire.PUT,
        _body(index, address) + wire.u32(_FLAGS, flags),
        f"put {address} on interface {index}",
    )


def _body(index: int, address: Address) -> bytes:
    head = _INFO.pack(FAMILY[address.version], BITS[address.version], 0, 0, index)
    return head + wire.attribute(_LOCAL, address.packed) + wire.attribute(_ADDRESS, address.packed)


def read(kernel: connection.Connection, index: int) -> list[bytes]:
    """Return the packed addresses of one interface."""
    body = _INFO.pack(0, 0, 0, 0, index)
    held: list[bytes] = []
    for answer in kernel.ask(Message(_GETADDR, Flag.DUMP, body, f"list addresses of interface {index}")):
        if _INFO.unpack_from(answer.body)[4] == index:
            parsed = wire.attributes(answer.body[_INFO.size :])
            held.append(parsed.get(_LOCAL) or parsed.get(_ADDRESS, b""))
    return held
