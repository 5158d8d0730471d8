"""The journal's entries, and the state that they add up to.

Invariant: folding any prefix of a journal gives the state that was true when the prefix's last entry was written.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable

import msgspec

from fleetboard.model.addresses import Address

Key = tuple[str, str]
"""Container id and interface name of an attachment."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attachment, with everything that is needed to create it again."""

    container_id: str
    interface: str
    addresses: list[str]
    mac: str
    cookie: int
    """Number of the pod's namespace; unique within one boot."""
    boot: str
    netns: str = ""
    """The runtime's CNI_NETNS, if cnf can find the namespace by it; else empty."""
    network: str = ""
    pod_namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    index: int = 0
    """Index of the interface in the pod."""
    reserved_at: float = 0
    """Wall clock time; compared with that of a spooled DEL."""

    @property
    def key(self) -> Key:
        """Identifies the attachment."""
        return self.container_id, self.interface

    def parse_addresses(self) -> tuple[Address, ...]:
        """Return the addresses as values."""
        return tuple(ipaddress.ip_address(address) for address in self.addresses)


def newest(records: Iterable[Record]) -> list[Record]:
    """Return the newest record of each pod's interface.

    A pod has one sandbox at a time. After a restart of the node the older one is dead, and not released yet.
    """
    latest: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda record: record.reserved_at):
        latest[(record.pod_uid or record.container_id, record.interface)] = record
    return list(latest.values())


class Reserve(msgspec.Struct, frozen=True, tag="reserve", tag_field="entry"):
    """An ADD began: the addresses are allocated; the interface may or may not exist."""

    record: Record


class Commit(msgspec.Struct, frozen=True, tag="commit", tag_field="entry"):
    """The interface exists; the caller may have its answer."""

    container_id: str
    interface: str
    index: int


class Release(msgspec.Struct, frozen=True, tag="release", tag_field="entry"):
    """The interface is gone and the addresses are released, to be quarantined or not."""

    container_id: str
    interface: str
    addresses: list[str]
    at: float
    quarantine: bool = msgspec.field(default=True, name="rest")


class JournalOrigin(msgspec.Struct, frozen=True, tag="origin", tag_field="entry"):
    """The node whose journal this is. A copy on another node says nothing about that node."""

    node: str


Entry = Reserve | Commit | Release | JournalOrigin


@dataclasses.dataclass(slots=True)
class JournalState:
    """What a journal means. No address is in two records."""

    records: dict[Key, Record] = dataclasses.field(default_factory=dict)
    open: set[Key] = dataclasses.field(default_factory=set)
    """Attachments whose ADD has not ended."""
    released: dict[str, float] = dataclasses.field(default_factory=dict)
    """Addresses that may still be quarantined, and when they were released."""
    holders: dict[str, Key] = dataclasses.field(default_factory=dict)
    """Which attachment holds each address."""
    origin: str = ""
    """The node whose journal it is."""


def fold(entries: Iterable[Entry]) -> JournalState:
    """Return the state after these entries."""
    state = JournalState()
    for entry in entries:
        apply(state, entry)
    return state


def apply(state: JournalState, entry: Entry) -> None:
    """Apply one entry to ``state``."""
    if isinstance(entry, JournalOrigin):
        state.origin = entry.node
        return
    if isinstance(entry, Reserve):
        _drop(state, entry.record.key)
        for address in entry.record.addresses:
            # The address was allocated again, so it had been released in a line that is damaged now.
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
