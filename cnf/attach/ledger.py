"""Who holds which address. Memory, journal and pool change together.

Theory of operation. The ledger keeps three things that say the same: the state in memory (``records.JournalState``),
the journal on disk that folds to that state, and the pool that new addresses come from.

An attachment goes through three entries:

    reserve     The addresses leave the pool and the entry is written, before the kernel has an interface.
    commit      The interface exists. Until then the attachment is unfinished, and recovery rolls it back.
    release     The interface is gone. The addresses return to the pool, quarantined unless no caller got them.

``reserve`` and ``commit`` promise something, so they fail if the entry can't be written, and memory stays as it was.
``release`` and ``adopt`` report what has already happened in the kernel, so memory follows even if the disk doesn't.
The journal then names an attachment too many; the next start finds its namespace dead and releases it again.

An entry that is written survives the process; ``sync`` waits until it survives the machine. ADD waits for its
reservation only: a crash of the machine ends every namespace, committed or not.

After a failed write the file can't be trusted, and the journal takes no entry. ``reserve`` and ``ensure_writable`` then
rewrite it whole from memory, as ``load`` does at a start and ``reserve`` when it has grown.

Invariant: an address leaves the pool before anybody learns of it, and returns only after the kernel has deleted the
interface.
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
    """The node's attachments. Thread-safe."""

    def __init__(
        self,
        journal: journal.Journal,
        *,
        node: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        compact_bytes: int = 1 << 20,
    ) -> None:
        """``node`` marks the journal as this node's. ``clock`` times quarantines, ``wall`` dates its entries."""
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
        """Read the journal and rewrite it in its shortest form; return how many damaged lines it had.

        A journal that can't be written is tried again at the next ``reserve``.

        Raises:
            JournalError: it can't be read.
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
                # A clock that was set back must not make a quarantine longer.
                left = min(ipam.QUARANTINE_S, max(0.0, at + ipam.QUARANTINE_S - wall))
                self._pool.release(ipaddress.ip_address(text), until=now + left)
            try:
                self._compact()
            except errors.JournalError as err:
                log.error("could not write the journal", extra={"error": str(err)})
        return damaged

    def _refuse_foreign(self, state: records.JournalState) -> records.JournalState:
        if self._node and state.origin not in ("", self._node):
            log.error("ignored the journal of another node", extra={"owner": state.origin, "node": self._node})
            state = records.JournalState()
        state.origin = self._node or state.origin
        return state

    def set_blocks(self, blocks: Iterable[Network], *, excluded: Iterable[Address]) -> None:
        """Replace the blocks that addresses are allocated from."""
        with self._lock:
            self._pool.set_blocks(blocks, excluded=excluded)

    def empty_blocks(self) -> tuple[Network, ...]:
        """Return the blocks without an address that is used or quarantined."""
        with self._lock:
            return self._pool.empty_blocks(now=self._clock())

    def free(self, version: int) -> int:
        """Count the free addresses of one family."""
        with self._lock:
            return self._pool.free(version, now=self._clock())

    def close_blocks(self, blocks: Collection[Network], *, excluded: Iterable[Address]) -> bool:
        """Allocate no more addresses from these blocks; return whether that is so.

        Nothing changes when an address of theirs is used or quarantined by now. Nor does it while the journal can't be
        written: it may name dead pods in the blocks, and the next start would take the blocks for used.
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
        """Rewrite the journal if a write has failed; return whether it can be written."""
        with self._lock:
            if not self._journal.healthy and self._loaded:
                try:
                    self._compact()
                except errors.JournalError:
                    return False
            return self._journal.healthy

    def attached(self) -> list[records.Record]:
        """Return the attachments whose ADD ended."""
        with self._lock:
            return [record for key, record in self._state.records.items() if key not in self._state.open]

    def unfinished(self) -> list[records.Record]:
        """Return the attachments whose ADD has not ended yet, or never will."""
        with self._lock:
            return [self._state.records[key] for key in self._state.open]

    def find(self, key: records.Key) -> records.Record | None:
        """Return the attachment of that key, finished or not."""
        with self._lock:
            return self._state.records.get(key)

    def holders(self, *, cookie: int, container_id: str) -> list[records.Record]:
        """Return the attachments of a namespace or a container."""
        with self._lock:
            return [r for r in self._state.records.values() if r.cookie == cookie or r.container_id == container_id]

    def reserve(self, draft: records.Record, *, requested: Iterable[Address] = ()) -> tuple[records.Record, int]:
        """Allocate addresses for ``draft`` and write its entry; return the record and the offset for ``sync``.

        A key that holds addresses already keeps them, if they are in the node's blocks and include those requested.

        Raises:
            CallRefusedError: no address can be allocated.
            JournalError: the entry can't be written; nothing is allocated.
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
                offset = self._write(records.Reserve(record))
            except errors.JournalError:
                if before is None:
                    for address in record.parse_addresses():
                        self._pool.release(address, until=self._clock())
                raise
            return record, offset

    def adopt(self, record: records.Record) -> None:
        """Write an attachment that exists in the kernel and that the journal has lost."""
        with self._lock:
            for address in record.parse_addresses():
                self._pool.hold(address)
            self._write_or_log(records.Reserve(record))
            self._write_or_log(records.Commit(*record.key, record.index))

    def holds(self, address: Address) -> bool:
        """Return whether an attachment holds an address."""
        with self._lock:
            return str(address) in self._state.holders

    def held_addresses(self) -> list[Address]:
        """Return the addresses of all attachments, finished or not."""
        with self._lock:
            return [ipaddress.ip_address(address) for address in self._state.holders]

    def uses(self, block: Network) -> bool:
        """Return whether an attachment holds an address of a block."""
        with self._lock:
            return any(ipaddress.ip_address(address) in block for address in self._state.holders)

    def commit(self, key: records.Key, *, index: int) -> int:
        """Write that the interface exists; return the offset for ``sync``.

        Raises:
            JournalError: the entry can't be written.
        """
        with self._lock:
            return self._write(records.Commit(*key, index))

    def sync(self, offset: int) -> None:
        """Wait until the entries up to ``offset`` are on disk.

        Raises:
            JournalError: the disk failed.
        """
        self._journal.sync(offset)

    def release(self, key: records.Key, *, quarantine: bool = True) -> bool:
        """Release the addresses of ``key``, after its interface is gone; return whether it held any."""
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
        offset = self._journal.append(entry)
        records.apply(self._state, entry)
        return offset

    def _write_or_log(self, entry: records.Entry) -> None:
        """Write an entry about what has already happened: memory follows even if the disk doesn't."""
        try:
            self._journal.append(entry)
        except errors.JournalError as err:
            log.error("could not write the journal", extra={"error": str(err)})
        records.apply(self._state, entry)

    def _compact(self) -> None:
        horizon = self._wall() - ipam.QUARANTINE_S
        self._state.released = {text: at for text, at in self._state.released.items() if at > horizon}
        self._journal.rewrite(records.unfold(self._state))
