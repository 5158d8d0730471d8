"""The versions of the CNI executable on a node, and whether a call still runs from one.

A call that began before an upgrade goes on from the folder it was started in. Its process is in another PID namespace
than ours, so it isn't looked for: the kernel grants a write lease only on a file that nobody has open, and a process
holds its executable open for as long as it lives (fcntl(2), F_SETLEASE).

One invariant: the version that the link points to is never removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import shutil
import signal


def is_running(executable: pathlib.Path) -> bool | None:
    """Tell whether any process of the node executes that file; None where its filesystem knows no leases.

    The file must belong to the caller.
    """
    try:
        descriptor = os.open(executable, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Whoever opens the file meanwhile breaks the lease, and the signal of that would end us: one that does nothing.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as err:
        return True if err.errno == errno.EAGAIN else None
    finally:
        os.close(descriptor)
    return False


def remove_unused(store: pathlib.Path, executable: str, *, keep: str) -> None:
    """Remove every version but ``keep`` and those that a call runs from, and what an install that died left half done.

    Where that can't be told all go: a call that is just starting then fails, and its runtime calls again.

    Raises:
        OSError: a version can't be removed.
    """
    for folder in sorted(store.iterdir()) if store.is_dir() else []:
        if folder.name != keep and is_running(folder / executable) is not True:
            remove(folder)


def remove(folder: pathlib.Path) -> None:
    """Remove a folder; one that isn't there is fine.

    Raises:
        OSError: it can't be removed.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        if folder.exists():
            raise
