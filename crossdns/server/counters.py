"""Counts queries in memory that the answering processes share with the process that shows metrics.

Invariant: every slot has one writer, a thread, so counting needs no lock and no system call.
"""

from __future__ import annotations

import mmap
import os

FIELDS = 32
_SLOT_BYTES = FIELDS * 8
# 0 to 15 count replies by rcode.
DROPPED = 16
"""Messages that got no reply."""
TRUNCATED = 17
"""Replies with the TC flag."""
UNPLAIN = 18
"""Messages that had to be parsed."""
FAILED = 19
"""Messages that crossdns itself failed on: always a defect."""
REFUSED_CONNECTIONS = 20
"""TCP connections closed because there were too many."""
GENERATION = 31
"""Generation of the zone that the slot's answerer serves; 0 before the first."""


class Board:
    """All slots, in an anonymous file that processes share by its descriptor."""

    def __init__(self, fd: int, slots: int) -> None:
        self.fd, self.slots = fd, slots
        self._memory = mmap.mmap(fd, slots * _SLOT_BYTES)

    @classmethod
    def create(cls, slots: int) -> Board:
        """Make a board of zeros; a process inherits it by its descriptor."""
        fd = os.memfd_create("crossdns-counters")
        os.ftruncate(fd, slots * _SLOT_BYTES)
        return cls(fd, slots)

    def slot(self, index: int) -> memoryview:
        """Return one slot as 64-bit numbers."""
        return memoryview(self._memory)[index * _SLOT_BYTES : (index + 1) * _SLOT_BYTES].cast("Q")
