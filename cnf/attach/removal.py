"""Deletes interfaces without waiting for the work that the kernel does after they are gone.

Both ends, their addresses and routes are gone within a millisecond. The kernel answers 10 to 20 ms later, when its
readers no longer use the memory. So a thread of its own sends the request, and the caller looks until the interface is
gone. Deletions that arrive while all threads wait become one group: the kernel waits once for the group.

Invariant: ``remove`` returns only after the interface is gone. It requests nothing for a name that doesn't exist: a
late request would delete a new interface of that name.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import threading
from collections.abc import Callable

from cnf.netlink import connection, errors, links

_GROUP = 0x666C7400
"""Interface group of the interfaces that are being deleted, and of no others."""

_AT_ONCE = 4
_FIRST_LOOK_S = 0.0005
_LAST_LOOK_S = 0.004
_KERNEL_S = 20.0

Lend = Callable[[], contextlib.AbstractContextManager[connection.Connection]]


@dataclasses.dataclass(slots=True)
class _Batch:
    names: set[str] = dataclasses.field(default_factory=set)
    begun: threading.Event = dataclasses.field(default_factory=threading.Event)
    done: threading.Event = dataclasses.field(default_factory=threading.Event)
    failure: errors.NetlinkError | None = None


class Remover:
    """Deletes interfaces by name. Thread-safe."""

    def __init__(self, lend: Lend) -> None:
        """``lend`` lends a connection in the namespace of the interfaces."""
        self._lend = lend
        self._lock = threading.Lock()
        self._next = _Batch()
        self._threads = concurrent.futures.ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="remove")

    def remove(self, name: str) -> None:
        """Delete an interface if it exists.

        Raises:
            NetlinkError: the kernel refused.
        """
        with self._lend() as kernel:
            if links.find(kernel, name) is None:
                return
            with self._lock:
                batch = self._next
                batch.names.add(name)
                if len(batch.names) == 1:
                    self._threads.submit(self._carry_out, batch)
            if not batch.begun.wait(_KERNEL_S):
                raise errors.SilentKernelError(f"delete interface {name}: earlier deletions have not ended")
            pause = _FIRST_LOOK_S
            # Deleting and looking up take the same lock, so a second look is rarely needed.
            while not batch.done.is_set() and links.find(kernel, name) is not None:
                batch.done.wait(pause)
                pause = min(2 * pause, _LAST_LOOK_S)
        if batch.failure is not None:
            raise batch.failure

    def close(self) -> None:
        """Wait for the kernel's answers."""
        self._threads.shutdown()

    def _carry_out(self, batch: _Batch) -> None:
        with self._lock:
            self._next = _Batch()
        batch.begun.set()
        try:
            self._delete(batch.names)
        except errors.NetlinkError as err:
            batch.failure = err
        finally:
            batch.done.set()

    def _delete(self, wanted: set[str]) -> None:
        with self._lend() as kernel:
            if len(wanted) == 1:
                kernel.send([links.delete(name) for name in wanted])
                return
            # One run of messages: nobody would add the missing interfaces to a group that was deleted too early.
            kernel.send([*(links.set_group(name, _GROUP) for name in wanted), links.delete_group(_GROUP)])
