"""Files that one cnf leaves to the next: a line of JSON that names their origin, and then the content.

Invariant: ``read`` returns only what was written completely. Nothing is flushed to the disk: a torn file counts as
missing.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
import zlib

import msgspec

from cnf.vip import errors

_FORMAT = 2
"""Version of the first line. Another one voids both files, and an upgraded node forwards nothing at first."""


@dataclasses.dataclass(frozen=True, slots=True)
class HandoverOrigin:
    """Where a file's content comes from.

    Attributes:
        owner: The node in its clusterset; another node's firewall is of no use here.
        boot: The machine's boot id.
        netns: Cookie of the network namespace that the content was read from.
    """

    owner: str
    boot: str
    netns: int


@dataclasses.dataclass(frozen=True, slots=True)
class HandoverFile:
    """A file's content with its origin; ``age_s`` since the content was read is valid within one boot only."""

    origin: HandoverOrigin
    age_s: float
    content: bytes


class _Head(msgspec.Struct, frozen=True):
    format: int
    owner: str
    boot: str
    netns: int
    taken_s: float
    length: int
    checksum: int


def now_s() -> float:
    """Return the seconds since the machine booted: the same clock for every process and container."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def write(path: pathlib.Path, content: bytes, *, origin: HandoverOrigin, taken_s: float) -> None:
    """Replace the file atomically: a reader finds the old content or the new.

    Raises:
        HandoverError: the file can't be written.
    """
    head = _Head(_FORMAT, origin.owner, origin.boot, origin.netns, taken_s, len(content), zlib.crc32(content))
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.write_bytes(msgspec.json.encode(head) + b"\n" + content)
        draft.chmod(0o600)
        draft.replace(path)
    except OSError as err:
        raise errors.HandoverError(f"{path} can't be written: {err.strerror}") from err


def read(path: pathlib.Path) -> HandoverFile | None:
    """Return the file's content; None when the file is missing, torn or of another format."""
    try:
        line, _, content = path.read_bytes().partition(b"\n")
        head = msgspec.json.decode(line, type=_Head)
    except (OSError, msgspec.MsgspecError):
        return None
    complete = head.length == len(content) and head.checksum == zlib.crc32(content)
    if head.format != _FORMAT or not complete:
        return None
    return HandoverFile(HandoverOrigin(head.owner, head.boot, head.netns), now_s() - head.taken_s, content)
