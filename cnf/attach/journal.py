"""The file that survives: one line for each entry, with its length and checksum.

One invariant: an entry is either read back whole or not at all. A line that was torn by a crash or a full disk is
skipped, and so is damage in the middle, without losing the lines after it.

A crash of the process loses nothing that was written: the page cache stays. ``sync`` is for the crash of the machine.
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
    found: list[records.Entry] = []
    damaged = 0
    for line in content.split(b"\n"):
        if not line:
            continue
        body = line[_HEAD:]
        if line[:_HEAD] != f"{len(body):08x} {zlib.crc32(body):08x} ".encode():
            damaged += 1
            continue
        try:
            found.append(_decoder.decode(body))
        except msgspec.MsgspecError:
            # Written by a later version: whole, and none of ours.
            damaged += 1
    return found, damaged


def acquire(path: pathlib.Path, *, timeout_s: float = 20) -> int:
    """Lock the state folder for this process alone, waiting for a predecessor that is about to end.

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
                raise errors.JournalError(f"{path} is held by another cnf for more than {timeout_s:.0f} s") from err
            time.sleep(0.05)
            continue
        return descriptor


def _open_lock(path: pathlib.Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        if err.errno not in (errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise
        # On a disk that takes nothing the pods that are there go on being served: then the folder itself is locked.
        return os.open(path if path.exists() else path.parent, os.O_RDONLY | os.O_CLOEXEC)


class Journal:
    """The journal, open for appending. Any thread."""

    def __init__(self, path: pathlib.Path, *, fsync: Callable[[int], None] = os.fdatasync) -> None:
        """``fsync`` is a parameter for tests of disks that fail."""
        self._path = path
        self._fsync = fsync
        self._lock = threading.Condition()
        self._file = -1
        self._size = 0
        # Marks count on over rewrites, so that one handed out before is covered after.
        self._written = 0
        self._durable = 0
        self._syncing = False
        self._flushing = False
        self._flusher = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="journal")
        self.healthy = False
        """False until ``rewrite`` worked, and after a write that failed: then ``rewrite`` is due."""

    @property
    def size(self) -> int:
        """Bytes written since the last ``rewrite``, its own included."""
        return self._size

    def read(self) -> tuple[list[records.Entry], int]:
        """Return the file's entries and the number of damaged lines.

        Raises:
            JournalError: it is there and can't be read.
        """
        try:
            return decode(self._path.read_bytes())
        except FileNotFoundError:
            return [], 0
        except OSError as err:
            raise errors.JournalError(f"{self._path} can't be read: {err.strerror}") from err

    def rewrite(self, entries: Iterable[records.Entry]) -> None:
        """Replace the file by these entries, durably, and append there from now on.

        Raises:
            JournalError: the disk is full or read-only; the file is as it was.
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
        """Write one entry and return a mark for ``sync``.

        Raises:
            JournalError: the disk is full or read-only; nothing of the entry stays.
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

    def sync(self, mark: int) -> None:
        """Wait until all up to ``mark`` is on disk; ``append`` has begun it already.

        Raises:
            JournalError: the disk failed, or doesn't answer.
        """
        deadline = time.monotonic() + _DISK_S
        with self._lock:
            while self._durable < mark:
                if not self.healthy:
                    raise errors.JournalError(f"{self._path} can't be written since an earlier failure")
                if not self._lock.wait(max(0.0, deadline - time.monotonic())):
                    raise errors.JournalError(f"{self._path} can't be written: no answer from the disk")

    def _flush(self) -> None:
        """Bring to disk what is written, until nothing is left: all that came meanwhile shares one wait."""
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
                    # The kernel forgets which pages failed: nothing of this file can be trusted any more.
                    self.healthy = False
                else:
                    self._durable = target
                self._lock.notify_all()
            self._flushing = False

    def close(self) -> None:
        """Close the file; what was written stays."""
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
    """Bring to disk which files a folder has: without it a rename may be undone by a crash of the machine."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
