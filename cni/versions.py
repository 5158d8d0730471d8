"""The versions of the CNI executable on a node, and whether a call still runs from one.

A call that began before an upgrade goes on from the folder it started in. Its process is in another PID namespace and
can't be looked up. Instead, the kernel is asked for a write lease on the executable: it grants one only while nobody
has the file open, and a process holds its executable open while it lives (fcntl(2), F_SETLEASE).

Invariant: the version that the link points to is never removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import shutil
import signal


def is_running(executable: pathlib.Path) -> bool | None:
    """Return whether any process of the node executes that file; None where the filesystem has no leases.

    The file must belong to the caller.
    """
    try:
        descriptor = os.open(executable, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # A process that opens the file meanwhile breaks the lease. The default signal for that would end this process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as err:
        return True if err.errno == errno.EAGAIN else None
    finally:
        os.close(descriptor)
    return False


def remove_unused(store: pathlib.Path, executable: str, *, keep: str) -> None:
    """Remove every version except ``keep`` and those that a call runs from; remove incomplete ones as well.

    Without leases all others go: a call that is just starting then fails, and its runtime calls again.

    Raises:
        OSError: a version can't be removed.
    """
    for folder in sorted(store.iterdir()) if store.is_dir() else []:
        if folder.name != keep and is_running(folder / executable) is not True:
            remove(folder)


def remove(folder: pathlib.Path) -> None:
    """Remove a folder if it exists.

    Raises:
        OSError: it can't be removed.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        if folder.exists():
            raise
