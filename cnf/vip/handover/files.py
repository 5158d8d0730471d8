"""Files that one cnf leaves to the next: a line of JSON that says whose they are, then the content.

One invariant: what ``read`` returns was written whole. Nothing is flushed to the disk: a torn file is as good as none.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
import zlib

import msgspec

from cnf.vip import errors

_FORMAT = 2
"""Of the first line. Another number voids connections and firewall, and an upgrade forwards nothing at first."""


@dataclasses.dataclass(frozen=True, slots=True)
class HandoverOrigin:
    """Whose content it is.

    Attributes:
        owner: Names the node in its clusterset: another one's firewall says nothing here.
        boot: The machine's boot id.
        netns: Cookie of the network namespace it was taken from.
    """

    owner: str
    boot: str
    netns: int


@dataclasses.dataclass(frozen=True, slots=True)
class HandoverFile:
    """Content with its origin; ``age_s`` has passed since it was taken, which only the same boot can tell."""

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
    """Replace the file at once: a reader finds the old content or the new.

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
    """Return what is there; None when nothing is, or it is torn or of another format."""
    try:
        line, _, content = path.read_bytes().partition(b"\n")
        head = msgspec.json.decode(line, type=_Head)
    except (OSError, msgspec.MsgspecError):
        return None
    whole = head.length == len(content) and head.checksum == zlib.crc32(content)
    if head.format != _FORMAT or not whole:
        return None
    return HandoverFile(HandoverOrigin(head.owner, head.boot, head.netns), now_s() - head.taken_s, content)
