"""Saves the zone to a file, so that crossdns answers after a restart even while the API is away.

Invariant: only a complete file of the same format is loaded; any other counts as no file.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from crossdns import errors, metrics
from crossdns.server import feed
from crossdns.zone import table
from fleetboard.model import names

log = logging.getLogger(__name__)

# Raise it whenever the encoding of answers or of this file changes.
FORMAT = 2
_CHECKSUM = 4
_HEAD = f"crossdns {FORMAT} {' '.join(names.ZONES)}\n".encode()


class ZoneFile:
    """The file, in a folder that outlives the container, such as an emptyDir."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "zone.bin"

    def save(self, snapshot: Iterable[table.ZoneChange]) -> None:
        """Replace the saved zone; when the disk is full or read-only, log that and keep the old file."""
        fresh = self._path.with_suffix(".new")
        try:
            with fresh.open("wb") as file:
                file.write(_HEAD)
                checksum = 0
                # Part by part: the whole would double the memory.
                for change in snapshot:
                    packed = feed.pack(feed.Frame(feed.FrameKind.PART, change))
                    checksum = zlib.crc32(packed, checksum)
                    file.write(packed)
                file.write(checksum.to_bytes(_CHECKSUM, "big"))
            os.replace(fresh, self._path)
        except OSError as err:
            metrics.SAVE_ERRORS.inc()
            log.warning("could not save the zone", extra={"path": str(self._path), "error": str(err)})

    def load(self) -> list[table.ZoneChange] | None:
        """Return the saved zone; None when there is none, or it can't be used."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as err:
            log.warning("could not read the saved zone", extra={"path": str(self._path), "error": str(err)})
            return None
        if not content.startswith(_HEAD):
            return None
        body, checksum = content[len(_HEAD) : -_CHECKSUM], content[-_CHECKSUM:]
        if len(content) < len(_HEAD) + _CHECKSUM or zlib.crc32(body).to_bytes(_CHECKSUM, "big") != checksum:
            log.warning("saved zone is damaged, ignoring it", extra={"path": str(self._path)})
            return None
        try:
            return list(_changes(body))
        except errors.FeedBrokenError:
            return None


def _changes(body: bytes) -> Iterator[table.ZoneChange]:
    for frame in feed.Unpacker().feed(body):
        if frame.change is not None:
            yield frame.change
