"""Who holds which address: memory, journal and pool, moved together.

One invariant: an address leaves the pool before anybody hears of it, and comes back only after the kernel has let go
of the interface. A release that can't be written still happens: what the journal then says too much, the dead
namespace disproves at the next start.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable

import msgspec

from cnf.attach import errors, ipam, journal, records
from fleetboard.model.addresses import Address, Network

log = logging.getLogger(__name__)


class Ledger:
    """The node's attachments. Any thread."""

    def __init__(
        self,
        journal: journal.Journal,
        *,
        node: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        compact_bytes: int = 1 << 20,
    ) -> None:
        """``node`` marks the journal as this node's; ``clock`` counts rests, ``wall`` dates entries over restarts."""
        self._journal = journal
        self._node = node
        self._clock = clock
        self._wall = wall
        self._compact_bytes = compact_bytes
        self._lock = threading.RLock()
        self._pool = ipam.Pool()
        self._state = records.JournalState()
        self._loaded = False

    def load(self) -> int:
        """Read the journal and write it anew, short; return how many damaged lines it had.

        Raises:
            JournalError: it can't be read. One that can't be written is tried again at the next ``reserve``.
        """
        entries, damaged = self._journal.read()
        with self._lock:
            self._state = self._refuse_foreign(records.fold(entries))
            self._loaded = True
            now, wall = self._clock(), self._wall()
            for record in self._state.records.values():
                for address in record.parse_addresses():
                    self._pool.hold(address)
            for text, at in self._state.released.items():
                # A clock that was set back must not make an address rest longer than it ever does.
                left = min(ipam.QUARANTINE_S, max(0.0, at + ipam.QUARANTINE_S - wall))
                self._pool.release(ipaddress.ip_address(text), until=now + left)
            try:
                self._compact()
            except errors.JournalError as err:
                log.error("the journal can't be written", extra={"error": str(err)})
        return damaged

    def _refuse_foreign(self, state: records.JournalState) -> records.JournalState:
        if self._node and state.origin not in ("", self._node):
            log.error("the journal is another node's and is not used", extra={"of": state.origin, "node": self._node})
            state = records.JournalState()
        state.origin = self._node or state.origin
        return state

    def set_blocks(self, blocks: Iterable[Network], *, excluded: Iterable[Address]) -> None:
        """Say which addresses may be given."""
        with self._lock:
            self._pool.set_blocks(blocks, excluded=excluded)

    def empty_blocks(self) -> tuple[Network, ...]:
        """Return the blocks of which no address is used or quarantined."""
        with self._lock:
            return self._pool.empty_blocks(now=self._clock())

    def free(self, version: int) -> int:
        """Count the addresses of one family that can be given now."""
        with self._lock:
            return self._pool.free(version, now=self._clock())

    def withdraw(self, blocks: Collection[Network], *, excluded: Iterable[Address]) -> bool:
        """Give no more addresses of these blocks.

        False, with nothing changed, when an address is used or rests meanwhile, or while the journal can't be written:
        it may name pods in them that are gone, and would make the blocks ours again at the next start.
        """
        with self._lock:
            if not self.ensure_writable() or not set(blocks) <= set(self._pool.empty_blocks(now=self._clock())):
                return False
            self._pool.set_blocks((b for b in self._pool.blocks if b not in blocks), excluded=excluded)
            return True

    def usage(self) -> ipam.Usage:
        """Count addresses."""
        with self._lock:
            return self._pool.usage(now=self._clock())

    def ensure_writable(self) -> bool:
        """Say whether the journal can be written; where it couldn't, write it anew first."""
        with self._lock:
            if not self._journal.healthy and self._loaded:
                try:
                    self._compact()
                except errors.JournalError:
                    return False
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

        A key that holds addresses already keeps them, if they are still the node's to give and those requested.

        Raises:
            CallRefusedError: no address.
            JournalError: it can't be written; nothing was taken.
        """
        with self._lock:
            if not self._loaded:
                raise errors.JournalError("the journal has not been read yet")
            if not self._journal.healthy or self._journal.size > self._compact_bytes:
                self._compact()
            requested = tuple(requested)
            before = self._state.records.get(draft.key)
            if before is not None and not self._suits(before, requested):
                self.release(before.key)
                before = None
            if before is not None:
                addresses = list(before.addresses)
            else:
                addresses = [str(a) for a in self._pool.allocate(requested=requested, now=self._clock())]
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
            self._write_or_log(records.Reserve(record))
            self._write_or_log(records.Commit(*record.key, record.index))

    def holds(self, address: Address) -> bool:
        """Say whether an attachment has that address."""
        with self._lock:
            return str(address) in self._state.holders

    def held_addresses(self) -> list[Address]:
        """Return every address that an attachment has, ended or not."""
        with self._lock:
            return [ipaddress.ip_address(address) for address in self._state.holders]

    def uses(self, block: Network) -> bool:
        """Say whether an attachment has an address of that block."""
        with self._lock:
            return any(ipaddress.ip_address(address) in block for address in self._state.holders)

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

    def release(self, key: records.Key, *, quarantine: bool = True) -> bool:
        """Give back what ``key`` holds, after the kernel let go; return whether it held anything."""
        with self._lock:
            record = self._state.records.get(key)
            if record is None:
                return False
            until = self._clock() + (ipam.QUARANTINE_S if quarantine else 0)
            for address in record.parse_addresses():
                self._pool.release(address, until=until)
            self._write_or_log(records.Release(*key, record.addresses, self._wall(), quarantine))
            return True

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _suits(self, record: records.Record, requested: tuple[Address, ...]) -> bool:
        held = record.parse_addresses()
        return set(requested) <= set(held) and all(self._pool.covers(address) for address in held)

    def _write(self, entry: records.Entry) -> int:
        mark = self._journal.append(entry)
        records.apply(self._state, entry)
        return mark

    def _write_or_log(self, entry: records.Entry) -> None:
        """Write what has happened already: memory follows whether or not the disk does."""
        try:
            self._journal.append(entry)
        except errors.JournalError as err:
            log.error("the journal can't be written", extra={"error": str(err)})
        records.apply(self._state, entry)

    def _compact(self) -> None:
        horizon = self._wall() - ipam.QUARANTINE_S
        self._state.released = {text: at for text, at in self._state.released.items() if at > horizon}
        self._journal.rewrite(records.unfold(self._state))
