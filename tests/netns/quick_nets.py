"""Network namespaces by the thousand, made by a system call and linked to this process' descriptors."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import threading
from collections.abc import Iterator

_CLONE_NEWNET = 0x40000000


class QuickNet:
    """One namespace. It ends after ``end``, when nothing else holds it."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._descriptor = _make()
        self.path.symlink_to(f"/proc/{os.getpid()}/fd/{self._descriptor}")

    @property
    def ended(self) -> bool:
        return self._descriptor < 0

    def end(self) -> None:
        """Close it, as the runtime does with that of a pod that is gone."""
        self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = -1


class QuickNets:
    """Makes namespaces in a folder, and ends what it made."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._made: list[QuickNet] = []

    def make(self, name: str) -> QuickNet:
        """Make a namespace with that name in the folder."""
        net = QuickNet(self.folder / name)
        self._made.append(net)
        return net

    def end_all(self) -> None:
        """End what is left."""
        for net in self._made:
            if not net.ended:
                net.end()
        self._made.clear()


@contextlib.contextmanager
def throw_away(folder: pathlib.Path) -> Iterator[QuickNets]:
    """Make the folder and lend a maker of namespaces."""
    folder.mkdir()
    nets = QuickNets(folder)
    try:
        yield nets
    finally:
        nets.end_all()


def _make() -> int:
    box: list[int | OSError] = []

    def leave() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET):
            box.append(OSError(ctypes.get_errno(), "unshare"))
            return
        box.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    if isinstance(box[0], OSError):
        raise box[0]
    return box[0]
