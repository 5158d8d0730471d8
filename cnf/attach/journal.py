"""The journal's file: one line for each entry, with its length and checksum.

Invariant: an entry is read back whole or not at all. A line that a crash or a full disk tore is skipped, as is a
damaged line in the middle, without losing the lines after it.

A crash of the process loses nothing that was written, because the page cache stays. ``sync`` is for a crash of the
machine.
"""

from __future__ import annotations

import concurrent.futures
import errno
import fcntl
import os
import pathlib
import threading
import time
import zlib
from collections.abc import Callable, Iterable

import msgspec

from cnf.attach import errors, records

_DISK_S = 20.0
_HEAD = 18  # "llllllll cccccccc "
_decoder = msgspec.json.Decoder(records.Entry)
_encoder = msgspec.json.Encoder()


def encode(entry: records.Entry) -> bytes:
    """Return the line of one entry."""
    body = _encoder.encode(entry)
    return f"{len(body):08x} {zlib.crc32(body):08x} ".encode() + body + b"\n"


def decode(content: bytes) -> tuple[list[records.Entry], int]:
    """Return the entries of a journal, and how many of its lines are damaged."""
    entries: list[records.Entry] = []
    damaged = 0
    for line in content.split(b"\n"):
        if not line:
            continue
        body = line[_HEAD:]
        if line[:_HEAD] != f"{len(body):08x} {zlib.crc32(body):08x} ".encode():
            damaged += 1
            continue
        try:
            entries.append(_decoder.decode(body))
        except msgspec.MsgspecError:
            # The line is whole: a later version wrote an entry that this one doesn't know.
            damaged += 1
    return entries, damaged


def acquire(path: pathlib.Path, *, timeout_s: float = 20) -> int:
    """Lock the state folder for this process alone; wait for an earlier cnf that is about to end.

    Returns the descriptor that holds the lock.

    Raises:
        JournalError: another process holds it, or the folder can't be read.
    """
    deadline = time.monotonic() + timeout_s
    try:
        descriptor = _open_lock(path)
    except OSError as err:
        raise errors.JournalError(f"{path} can't be opened: {err.strerror}") from err
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise errors.JournalError(
                    f"{path} has been held by another cnf for more than {timeout_s:.0f} s"
                ) from err
            time.sleep(0.05)
            continue
        return descriptor


def _open_lock(path: pathlib.Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        if err.errno not in (errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise
        # A disk that can't be written must not keep existing pods from being served: lock the folder itself.
        return os.open(path if path.exists() else path.parent, os.O_RDONLY | os.O_CLOEXEC)


class Journal:
    """The journal, open for appending. Thread-safe."""

    def __init__(self, path: pathlib.Path, *, fsync: Callable[[int], None] = os.fdatasync) -> None:
        """``fsync`` is a parameter for tests of failing disks."""
        self._path = path
        self._fsync = fsync
        self._lock = threading.Condition()
        self._file = -1
        self._size = 0
        # Bytes, counted on over rewrites: an offset from before a rewrite is still valid after it.
        self._written = 0
        self._durable = 0
        self._syncing = False
        self._flushing = False
        self._flusher = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="journal")
        self.healthy = False
        """False before the first ``rewrite`` and after a failed write; ``rewrite`` makes it true."""

    @property
    def size(self) -> int:
        """Bytes in the file: those of the last ``rewrite`` and those appended since."""
        return self._size

    def read(self) -> tuple[list[records.Entry], int]:
        """Return the file's entries and the number of damaged lines.

        Raises:
            JournalError: the file exists and can't be read.
        """
        try:
            return decode(self._path.read_bytes())
        except FileNotFoundError:
            return [], 0
        except OSError as err:
            raise errors.JournalError(f"{self._path} can't be read: {err.strerror}") from err

    def rewrite(self, entries: Iterable[records.Entry]) -> None:
        """Replace the file durably by these entries, and append to the new file from now on.

        Raises:
            JournalError: the disk is full or read-only; the file is unchanged.
        """
        content = b"".join(encode(entry) for entry in entries)
        draft = self._path.with_suffix(".new")
        with self._lock:
            while self._syncing:
                self._lock.wait()
            try:
                file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
                try:
                    write_all(file, content)
                    self._fsync(file)
                    draft.rename(self._path)
                    sync_folder(self._path.parent)
                except OSError:
                    os.close(file)
                    raise
            except OSError as err:
                self.healthy = False
                raise errors.JournalError(f"{self._path} can't be written: {err.strerror}") from err
            if self._file >= 0:
                os.close(self._file)
            self._file = file
            self._size = len(content)
            self._durable = self._written
            self.healthy = True
            self._lock.notify_all()

    def append(self, entry: records.Entry) -> int:
        """Write one entry and return the offset for ``sync``.

        Raises:
            JournalError: the disk is full or read-only; the entry will not be read back.
        """
        line = encode(entry)
        with self._lock:
            if not self.healthy:
                raise errors.JournalError(f"{self._path} can't be written since an earlier failure")
            try:
                write_all(self._file, line)
            except OSError as err:
                self.healthy = False
                raise errors.JournalError(f"{self._path} can't be written: {err.strerror}") from err
            self._size += len(line)
            self._written += len(line)
            if not self._flushing:
                self._flushing = True
                self._flusher.submit(self._flush)
            return self._written

    def sync(self, offset: int) -> None:
        """Wait until all entries up to ``offset`` are on disk; ``append`` has started that.

        Raises:
            JournalError: the disk failed or doesn't answer.
        """
        deadline = time.monotonic() + _DISK_S
        with self._lock:
            while self._durable < offset:
                if not self.healthy:
                    raise errors.JournalError(f"{self._path} can't be written since an earlier failure")
                if not self._lock.wait(max(0.0, deadline - time.monotonic())):
                    raise errors.JournalError(f"{self._path} can't be written: no answer from the disk")

    def _flush(self) -> None:
        """Flush until everything is on disk. Entries that arrive during one flush share the next."""
        with self._lock:
            while self._durable < self._written and self.healthy:
                target, file = self._written, self._file
                self._syncing = True
                self._lock.release()
                failed = False
                try:
                    self._fsync(file)
                except OSError:
                    failed = True
                finally:
                    self._lock.acquire()
                    self._syncing = False
                if failed:
                    # The kernel forgets which pages failed, so nothing in this file can be trusted any more.
                    self.healthy = False
                else:
                    self._durable = target
                self._lock.notify_all()
            self._flushing = False

    def close(self) -> None:
        """Close the file; its entries stay."""
        self._flusher.shutdown()
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self.healthy = False


def write_all(file: int, content: bytes) -> None:
    """Write all bytes, in as many calls as the kernel takes."""
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def sync_folder(path: pathlib.Path) -> None:
    """Flush a folder's list of files: without it a crash of the machine may undo a rename."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
