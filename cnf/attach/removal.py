"""Deletes interfaces in groups: the kernel waits for its readers once for a group, not once for each.

One invariant: ``remove`` returns only after the interface is gone. Calls that come while a deletion runs wait for the
next one, and go together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable

from cnf.netlink import connection, errors, links

_GROUP = 0x666C7400
"""Interface group of those about to be deleted; nothing else is ever in it."""

Lend = Callable[[], contextlib.AbstractContextManager[connection.Connection]]


@dataclasses.dataclass(slots=True)
class _Batch:
    names: set[str] = dataclasses.field(default_factory=set)
    failure: errors.NetlinkError | None = None


class Remover:
    """Deletes by name. Any thread."""

    def __init__(self, lend: Lend) -> None:
        """``lend`` gives a connection in the namespace of the interfaces."""
        self._lend = lend
        self._lock = threading.Lock()
        self._next = _Batch()
        self._working = threading.Lock()

    def remove(self, name: str) -> None:
        """Delete one interface; one that is gone is fine.

        Raises:
            NetlinkError: the kernel refused.
        """
        with self._lock:
            batch = self._next
            batch.names.add(name)
        with self._working:
            with self._lock:
                mine = self._next is batch
                if mine:
                    self._next = _Batch()
            if mine:
                try:
                    self._delete(batch.names)
                except errors.NetlinkError as err:
                    batch.failure = err
        # Whoever had the lock before us has carried our batch out, or we have.
        if batch.failure is not None:
            raise batch.failure

    def _delete(self, wanted: set[str]) -> None:
        with self._lend() as kernel:
            if len(wanted) == 1:
                kernel.send([links.delete(name) for name in wanted])
                return
            # All of a batch in one message run: a group that is deleted half-filled is filled again by nobody.
            kernel.send([*(links.set_group(name, _GROUP) for name in wanted), links.delete_group(_GROUP)])
