"""Datagrams of the probe port.

Pure. MessagePack behind four bytes that name protocol and version. One invariant: whatever arrives either decodes into
one of the structs below with every field in range, or raises ``MalformedError``.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

MAGIC = b"FLT1"
LARGEST = 512
"""Longer datagrams are malformed: nothing here comes near it."""

Nonce = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Epoch = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
PublicKey = Annotated[str, msgspec.Meta(min_length=44, max_length=44)]


class MalformedError(ValueError):
    """A datagram is none of ours."""


class Probe(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Are you there?"""

    nonce: Nonce


class Echo(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Answer to ``Probe``."""

    nonce: Nonce


class Announcement(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The sender carries its cluster's traffic from now on."""

    nonce: Nonce
    cluster: Name
    epoch: Epoch
    public_key: PublicKey


class Ack(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Answer to ``Announcement``: the highest epoch known, and whether the announced one is it."""

    nonce: Nonce
    cluster: Name
    epoch: Epoch
    accepted: bool


Message = Probe | Echo | Announcement | Ack

_decoder = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """Return the datagram of a message."""
    return MAGIC + _encoder.encode(message)


def decode(datagram: bytes) -> Message:
    """Return the message of a datagram.

    Raises:
        MalformedError: it is none.
    """
    if not datagram.startswith(MAGIC) or len(datagram) > LARGEST:
        raise MalformedError("not a datagram of the probe port")
    try:
        message: Message = _decoder.decode(memoryview(datagram)[len(MAGIC) :])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise MalformedError(str(err)) from err
    return message
