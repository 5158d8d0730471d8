"""Carries the zone and its changes from the process that watches to those that answer.

Invariant: an answering process serves a whole zone or none. It collects a snapshot aside and begins to serve it by one
assignment; it applies a change in parts so small that no answer waits.
"""

from __future__ import annotations

import dataclasses
import enum
import socket
import struct
from collections.abc import Iterable, Iterator

import msgspec

from crossdns import errors
from crossdns.server.answerer import Answerer, LiveZone, store
from crossdns.zone import encode, table

_LENGTH = struct.Struct("!I")
# 256 answers of 65 kB: more than any part has.
_FRAME_MAX = 32 << 20


class FrameKind(enum.IntEnum):
    """The purpose of a frame."""

    BEGIN = 0
    """A snapshot follows."""
    PART = 1
    """Part of a snapshot, or of a change to what is served."""
    COMMIT = 2
    """The snapshot, or the change, is complete."""


class Frame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One message.

    Attributes:
        generation: Number of the update, counted from 1; on COMMIT only.
        soa: Content of the SOA record by encoded zone name; on COMMIT only.
    """

    kind: FrameKind
    change: table.ZoneChange | None = None
    generation: int = 0
    soa: dict[bytes, bytes] = {}


_decoder = msgspec.msgpack.Decoder(Frame)


def pack(frame: Frame) -> bytes:
    """Encode a frame with its length in front."""
    body = msgspec.msgpack.encode(frame)
    return _LENGTH.pack(len(body)) + body


def frames(
    changes: Iterable[table.ZoneChange], *, soa: dict[bytes, bytes], generation: int, snapshot: bool
) -> Iterator[Frame]:
    """Return the frames of one update."""
    if snapshot:
        yield Frame(FrameKind.BEGIN)
    for change in changes:
        for part in table.parts(change):
            yield Frame(FrameKind.PART, part)
    yield Frame(FrameKind.COMMIT, generation=generation, soa=soa)


class Unpacker:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes) -> Iterator[Frame]:
        """Iterate over the frames that ``received`` completes.

        Raises:
            FeedBrokenError: the bytes are not frames.
        """
        self._buffer += received
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > _FRAME_MAX:
                raise errors.FeedBrokenError(f"frame of {length} bytes: expected at most {_FRAME_MAX}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            try:
                yield _decoder.decode(body)
            except msgspec.DecodeError as err:
                raise errors.FeedBrokenError(f"frame that does not decode: {err}") from err


@dataclasses.dataclass(slots=True)
class Replica:
    """The answering side of the feed: applies frames to the zone that an answerer serves.

    Attributes:
        generation: Number of the last update that is complete.
    """

    answerer: Answerer
    generation: int = 0
    _aside: LiveZone | None = None

    def apply(self, frame: Frame) -> bool:
        """Apply one frame; return whether it was a commit."""
        if frame.kind is FrameKind.BEGIN:
            self._aside = LiveZone({}, set(), {})
            return False
        target = self._aside or self.answerer.zone
        if target is None:
            raise errors.FeedBrokenError("a change came before the first snapshot")
        if frame.kind is FrameKind.PART and frame.change is not None:
            _apply(target, frame.change)
            return False
        target.soa = frame.soa
        self.answerer.zone, self._aside = target, None
        self.generation = frame.generation
        return True


def _apply(target: LiveZone, change: table.ZoneChange) -> None:
    target.names.update(change.appeared)
    for entry in change.entries:
        if entry.records:
            target.answers[entry.question] = store(encode.Answer(entry.count, entry.records, entry.step))
        else:
            target.answers.pop(entry.question, None)
    target.names.difference_update(change.vanished)


def receive(connection: socket.socket, replica: Replica) -> Iterator[int]:
    """Apply the frames of ``connection`` until its other end closes; yield the generation after each commit."""
    unpacker = Unpacker()
    while received := connection.recv(1 << 16):
        for frame in unpacker.feed(received):
            if replica.apply(frame):
                yield replica.generation
