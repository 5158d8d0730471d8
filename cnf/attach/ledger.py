"""Who holds which address: memory, journal and pool, moved together.

One invariant: an address leaves the pool before anybody hears of it, and comes back only after the kernel has let go
of the interface. A release that can't be written still happens: what the journal then says too much, the dead
namespace disproves at the next start.
"""

from __future__ import annotations

import ipaddress
import logging
import pathlib
import threading
import time
from collections.abc import Callable, Iterable

import msgspec

from cnf.attach import errors, ipam, journal, records
from fleetboard.model.addresses import Address, Network

_log = logging.getLogger(__name__)

_COMPACT_BYTES = 1 << 20


class Ledger:
    """The node's attachments. Any thread."""

    def __init__(
        self,
        store: journal.Journal,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` counts rests, ``wall`` dates entries over restarts."""
        self._journal = store
        self._clock = clock
        self._wall = wall
        self._lock = threading.RLock()
        self._pool = ipam.Pool()
        self._state = records.State()
        self._loaded = False

    @classmethod
    def at(cls, folder: pathlib.Path) -> Ledger:
        """Make the ledger kept in ``folder``."""
        return cls(journal.Journal(folder / "journal"))

    def load(self) -> int:
        """Read the journal and write it anew, short; return how many damaged lines it had.

        Raises:
            JournalError: it can't be read. One that can't be written is tried again at the next ``reserve``.
        """
        entries, damaged = self._journal.read()
        with self._lock:
            self._state = records.fold(entries)
            self._loaded = True
            now, wall = self._clock(), self._wall()
            for record in self._state.records.values():
                for address in record.parse_addresses():
                    self._pool.hold(address)
            for text, at in self._state.released.items():
                # A clock that was set back must not make an address rest longer than it ever does.
                left = min(ipam.REST_S, max(0.0, at + ipam.REST_S - wall))
                self._pool.release(ipaddress.ip_address(text), until=now + left)
            try:
                self._compact()
            except errors.JournalError as err:
                _log.error("the journal can't be written", extra={"error": str(err)})
        return damaged

    def set_blocks(self, blocks: Iterable[Network], *, excluded: Iterable[Address]) -> None:
        """Say which addresses may be given."""
        with self._lock:
            self._pool.set_blocks(blocks, excluded=excluded)

    def usage(self) -> ipam.Usage:
        """Count addresses."""
        with self._lock:
            return self._pool.usage(now=self._clock())

    @property
    def healthy(self) -> bool:
        """Whether the journal can be written, as far as known."""
        return self._journal.healthy

    def attached(self) -> list[records.Record]:
        """Return the attachments whose ADD has ended."""
        with self._lock:
            return [record for key, record in self._state.records.items() if key not in self._state.open]

    def unfinished(self) -> list[records.Record]:
        """Return the attachments whose ADD has not ended."""
        with self._lock:
            return [self._state.records[key] for key in self._state.open]

    def find(self, key: records.Key) -> records.Record | None:
        """Return the attachment of that key, ended or not."""
        with self._lock:
            return self._state.records.get(key)

    def holders(self, *, cookie: int, container_id: str) -> list[records.Record]:
        """Return the attachments of that namespace or container."""
        with self._lock:
            return [r for r in self._state.records.values() if r.cookie == cookie or r.container_id == container_id]

    def reserve(self, draft: records.Record, *, requested: Iterable[Address] = ()) -> tuple[records.Record, int]:
        """Take addresses for ``draft`` and write it down; return the record and a mark for ``sync``.

        A key that holds addresses already keeps them.

        Raises:
            CallRefusedError: no address.
            JournalError: it can't be written; nothing was taken.
        """
        with self._lock:
            if not self._loaded:
                raise errors.JournalError("the journal has not been read yet")
            if not self._journal.healthy or self._journal.size > _COMPACT_BYTES:
                self._compact()
            before = self._state.records.get(draft.key)
            if before is not None:
                addresses = list(before.addresses)
            else:
                addresses = [str(a) for a in self._pool.take(requested=requested, now=self._clock())]
            record = msgspec.structs.replace(draft, addresses=addresses, reserved_at=self._wall())
            try:
                mark = self._write(records.Reserve(record))
            except errors.JournalError:
                if before is None:
                    for address in record.parse_addresses():
                        self._pool.release(address, until=self._clock())
                raise
            return record, mark

    def adopt(self, record: records.Record) -> None:
        """Write down an attachment that stands in the kernel and that the journal has lost."""
        with self._lock:
            for address in record.parse_addresses():
                self._pool.hold(address)
            self._note(records.Reserve(record))
            self._note(records.Commit(*record.key, record.index))

    def holds(self, address: Address) -> bool:
        """Say whether an attachment has that address."""
        with self._lock:
            return any(str(address) in record.addresses for record in self._state.records.values())

    def commit(self, key: records.Key, *, index: int) -> int:
        """Write down that the interface stands; return a mark for ``sync``.

        Raises:
            JournalError: it can't be written.
        """
        with self._lock:
            return self._write(records.Commit(*key, index))

    def sync(self, mark: int) -> None:
        """Wait until all up to ``mark`` is on disk.

        Raises:
            JournalError: the disk failed.
        """
        self._journal.sync(mark)

    def release(self, key: records.Key, *, rest: bool = True) -> bool:
        """Give back what ``key`` holds, after the kernel let go; return whether it held anything."""
        with self._lock:
            record = self._state.records.get(key)
            if record is None:
                return False
            until = self._clock() + (ipam.REST_S if rest else 0)
            for address in record.parse_addresses():
                self._pool.release(address, until=until)
            self._note(records.Release(*key, record.addresses, self._wall(), rest))
            return True

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _write(self, entry: records.Entry) -> int:
        mark = self._journal.append(entry)
        records.apply(self._state, entry)
        return mark

    def _note(self, entry: records.Entry) -> None:
        """Write what has happened already: memory follows whether or not the disk does."""
        try:
            self._journal.append(entry)
        except errors.JournalError as err:
            _log.error("the journal can't be written", extra={"error": str(err)})
        records.apply(self._state, entry)

    def _compact(self) -> None:
        horizon = self._wall() - ipam.REST_S
        self._state.released = {text: at for text, at in self._state.released.items() if at > horizon}
        self._journal.rewrite(records.unfold(self._state))
