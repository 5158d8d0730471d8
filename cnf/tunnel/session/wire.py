"""Datagrams of the probe port: MessagePack after four bytes that name protocol and version.

Pure. Invariant: any datagram either decodes into one of the structs below with every field in range, or raises
``MalformedError``.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

MAGIC = b"FLT1"
LARGEST = 512
"""Longer datagrams are malformed. No message here comes near this size."""

Nonce = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Epoch = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
PublicKey = Annotated[str, msgspec.Meta(min_length=44, max_length=44)]


class MalformedError(ValueError):
    """A datagram is not a message of this protocol."""


class Probe(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A question whether the receiver is there."""

    nonce: Nonce


class Echo(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The answer to a ``Probe``."""

    nonce: Nonce


class Announcement(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The sender's statement that it carries its cluster's traffic from now on."""

    nonce: Nonce
    cluster: Name
    epoch: Epoch
    public_key: PublicKey


class Ack(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The answer to an ``Announcement``: the highest epoch known. ``accepted``: the announced leader now holds it."""

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
        MalformedError: it is not a message.
    """
    if not datagram.startswith(MAGIC) or len(datagram) > LARGEST:
        raise MalformedError("not a datagram of the probe port")
    try:
        message: Message = _decoder.decode(memoryview(datagram)[len(MAGIC) :])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise MalformedError(str(err)) from err
    return message
