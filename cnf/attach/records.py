"""What the journal says, and what all its entries together mean.

One invariant: ``fold`` is the only reading of a journal, and folding any prefix of one gives a state that was true
when its last entry was written.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable

import msgspec

from fleetboard.model.addresses import Address

Key = tuple[str, str]
"""Container id and interface name: what an address belongs to."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attachment: everything it takes to make it again."""

    container_id: str
    interface: str
    addresses: list[str]
    mac: str
    cookie: int
    """Number of the pod's namespace; with ``boot`` it is never used again."""
    boot: str
    netns: str = ""
    """CNI_NETNS as the runtime gave it, as long as it leads cnf back to the namespace; else nothing."""
    network: str = ""
    pod_namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    index: int = 0
    """Interface index in the pod."""
    reserved_at: float = 0
    """Wall clock; compared with the time of a spooled DEL."""

    @property
    def key(self) -> Key:
        """What the addresses belong to."""
        return self.container_id, self.interface

    def parse_addresses(self) -> tuple[Address, ...]:
        """Return the addresses as values."""
        return tuple(ipaddress.ip_address(address) for address in self.addresses)


def newest(found: Iterable[Record]) -> list[Record]:
    """Return of each pod's interface the record that was made last.

    A pod has one sandbox at a time: after a node's restart, that of the old one is dead and only not freed yet.
    """
    latest: dict[tuple[str, str], Record] = {}
    for record in sorted(found, key=lambda record: record.reserved_at):
        latest[(record.pod_uid or record.container_id, record.interface)] = record
    return list(latest.values())


class Reserve(msgspec.Struct, frozen=True, tag="reserve", tag_field="entry"):
    """An ADD began: the addresses are taken, the kernel may or may not hold the interface."""

    record: Record


class Commit(msgspec.Struct, frozen=True, tag="commit", tag_field="entry"):
    """The interface stands; the answer may have been given."""

    container_id: str
    interface: str
    index: int


class Release(msgspec.Struct, frozen=True, tag="release", tag_field="entry"):
    """The interface is gone and the addresses are given back; with ``rest`` they stay unused for a while."""

    container_id: str
    interface: str
    addresses: list[str]
    at: float
    quarantine: bool = msgspec.field(default=True, name="rest")


class JournalOrigin(msgspec.Struct, frozen=True, tag="origin", tag_field="entry"):
    """Whose journal this is: a copy on another node says nothing about that one."""

    node: str


Entry = Reserve | Commit | Release | JournalOrigin


@dataclasses.dataclass(slots=True)
class JournalState:
    """What a journal means: attachments, those whose ADD never ended, and released addresses that may still rest.

    ``holders`` says whose each address is: nobody holds one that another record names.
    """

    records: dict[Key, Record] = dataclasses.field(default_factory=dict)
    open: set[Key] = dataclasses.field(default_factory=set)
    released: dict[str, float] = dataclasses.field(default_factory=dict)
    holders: dict[str, Key] = dataclasses.field(default_factory=dict)
    origin: str = ""


def fold(entries: Iterable[Entry]) -> JournalState:
    """Read entries in order."""
    state = JournalState()
    for entry in entries:
        apply(state, entry)
    return state


def apply(state: JournalState, entry: Entry) -> None:
    """Move ``state`` on by one entry."""
    if isinstance(entry, JournalOrigin):
        state.origin = entry.node
        return
    if isinstance(entry, Reserve):
        _drop(state, entry.record.key)
        for address in entry.record.addresses:
            # Given anew, so it had been released: that line was damaged.
            _drop(state, state.holders.get(address))
            state.released.pop(address, None)
            state.holders[address] = entry.record.key
        state.records[entry.record.key] = entry.record
        state.open.add(entry.record.key)
        return
    key = (entry.container_id, entry.interface)
    if isinstance(entry, Commit):
        record = state.records.get(key)
        if record is not None:
            state.records[key] = msgspec.structs.replace(record, index=entry.index)
            state.open.discard(key)
        return
    _drop(state, key)
    for address in entry.addresses:
        state.released.pop(address, None)
        if entry.quarantine and address not in state.holders:
            state.released[address] = entry.at


def _drop(state: JournalState, key: Key | None) -> None:
    record = state.records.pop(key, None) if key is not None else None
    if key is None or record is None:
        return
    state.open.discard(key)
    for address in record.addresses:
        state.holders.pop(address, None)


def unfold(state: JournalState) -> list[Entry]:
    """Return the shortest journal that means ``state``."""
    entries: list[Entry] = [JournalOrigin(state.origin)] if state.origin else []
    entries += [Release("", "", [address], at) for address, at in state.released.items()]
    for key, record in state.records.items():
        entries.append(Reserve(record))
        if key not in state.open:
            entries.append(Commit(*key, record.index))
    return entries
