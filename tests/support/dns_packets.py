"""Queries as bytes, and what hostile or broken senders make of them."""

from __future__ import annotations

import random
import re
import struct

import dnslib

WEB = "web.shop.svc.hyperos.local"
_OPT = re.compile(rb"\x00\x00\x29(..)", re.DOTALL)


def query(name: str = WEB, type_: str = "A") -> bytes:
    return bytes(dnslib.DNSRecord.question(name, type_).pack())


def with_opt(data: bytes, *, size: int = 1232, version: int = 0, flags: int = 0, options: bytes = b"") -> bytes:
    """Add an OPT record to a query."""
    opt = b"\0" + struct.pack("!HHBBHH", 41, size, 0, version, flags, len(options)) + options
    return data[:10] + b"\0\1" + data[12:] + opt


def with_questions(data: bytes, count: int) -> bytes:
    """Ask the same question ``count`` times over."""
    return data[:4] + count.to_bytes(2, "big") + data[6:12] + data[12:] * count


def with_circles(data: bytes, depth: int) -> bytes:
    """Add a record whose name is a chain of pointers, each to the next."""
    chain = b"".join(struct.pack("!H", 0xC000 | min(max(12, 40 + 2 * n), 0x3FFF)) for n in range(depth))
    return data[:10] + b"\0\1" + data[12:] + chain + b"\0\x29\x04\xd0\0\0\0\0\0\0"


def largest_asked(data: bytes) -> int:
    """Return the longest datagram that ``data`` can be read to ask for."""
    return max((512, *(int.from_bytes(found, "big") for found in _OPT.findall(data))))


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change some bytes, take some out, put some in, point names at each other, exchange the halves."""
    mutated = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(mutated) + 1)
        match chance.randrange(6):
            case 0:
                mutated[at : at + 1] = bytes((chance.randrange(256),))
            case 1:
                del mutated[at : at + chance.randint(1, 8)]
            case 2:
                mutated[at:at] = chance.randbytes(chance.randint(1, 12))
            case 3:
                mutated[at : at + 2] = (0xC000 | chance.randrange(64)).to_bytes(2, "big")
            case 4:
                # Another spelling of the letters (0x20).
                mutated[12:] = bytes(byte ^ (byte > 64 and chance.getrandbits(1) << 5) for byte in mutated[12:])
            case _:
                mutated = mutated[at:] + mutated[:at]
        if not mutated:
            mutated = bytearray(b"\0")
    return bytes(mutated)
