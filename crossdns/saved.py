"""Keep the last zone in a file, so that a restart while the API is away goes on answering.

One invariant: what is loaded was saved whole by a program that encodes answers the same way; anything else is as if
there were no file.
"""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path

import msgspec

from crossdns import metrics, table
from fleetboard.model import names

log = logging.getLogger(__name__)

# To be raised whenever the encoding of answers or of this file changes.
FORMAT = 1


class _File(msgspec.Struct, array_like=True, frozen=True):
    format: int
    zones: tuple[str, ...]
    change: table.Change


class Store:
    """The file in a folder that outlives the container, such as an emptyDir."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "zone.bin"

    def save(self, snapshot: table.Change) -> None:
        """Replace the saved zone; a disk that is full or read-only is logged and costs nothing but the file."""
        body = msgspec.msgpack.encode(_File(FORMAT, names.ZONES, snapshot))
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(zlib.crc32(body).to_bytes(4, "big") + body)
            os.replace(fresh, self._path)
        except OSError as err:
            metrics.SAVE_ERRORS.inc()
            log.warning("zone not saved", extra={"path": str(self._path), "error": str(err)})

    def load(self) -> table.Change | None:
        """Return the saved zone, if there is one that can be used."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as err:
            log.warning("saved zone not read", extra={"path": str(self._path), "error": str(err)})
            return None
        body = content[4:]
        if len(content) < 4 or zlib.crc32(body).to_bytes(4, "big") != content[:4]:
            log.warning("saved zone is damaged and left alone", extra={"path": str(self._path)})
            return None
        try:
            file = msgspec.msgpack.decode(body, type=_File)
        except msgspec.DecodeError:
            return None
        return file.change if (file.format, file.zones) == (FORMAT, names.ZONES) else None
