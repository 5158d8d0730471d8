"""A VipTable as elements of nftables' maps and sets in netlink's encoding (nf_tables.h), and the difference of two.

A virtual address and port is in exactly one map, by its size class and affinity; the key ends in the slot, unless there
is only one. nft would take 2.6 kB and 17 µs for each element (measured, decision 14), and a process of its own for each
change; 10 000 services have 100 000 elements. Nothing here does I/O.

Invariant: an element's key is in ``ElementChanges`` at most once as removed and once as added.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

from cnf.netlink import wire
from cnf.vip import slots, transaction
from cnf.vip.table import Backend, BackendAddress, ExportedPort, Frontend, Protocol, VipTable
from fleetboard.model.addresses import Address

Elements = Mapping[str, Mapping[bytes, bytes]]
"""By map or set: values by key; in sets the value is empty."""

Subject = Frontend | ExportedPort | Address
"""What an element belongs to: a virtual address and port, an exported port, or an endpoint on this node."""

_PROTOCOLS: Mapping[Protocol, int] = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}

# Each part of a concatenation fills registers of four bytes: ports in the network's byte order, the mark in the host's.
_PORT = struct.Struct("!H2x")
_PROTOCOL_PORT = struct.Struct("!B3xH2x")
_WIDEST_IPV4 = 17
"""Keys of IPv4 are shorter: address, protocol, port and slot take 16 bytes; keys of IPv6 have at least 24."""
_SLOTS = [struct.pack("=I", slot) for slot in range(slots.SIZES[-1])]

_SET, _ELEMENTS = 2, 3
_ITEM, _KEY, _DATA, _VALUE = 1, 1, 2, 1
_NESTED = 0x8000
_MESSAGE_ELEMENTS = 800
"""An attribute ends at 64 KiB, and an element of IPv6 has 76 bytes."""


@dataclasses.dataclass(frozen=True, slots=True)
class ElementChanges:
    """Elements to delete from the kernel's maps and sets, and then to add; both empty when nothing differs."""

    removed: Elements
    added: Elements

    def __bool__(self) -> bool:
        return bool(self.removed or self.added)


def map_name(version: int, size: int, *, sticky: bool) -> str:
    """Name the map of a size class."""
    return f"{'sticky' if sticky and size > 1 else 'spread'}{version}_{size}"


def map_and_set_names(versions: Iterable[int]) -> Iterator[str]:
    """Name every map and set that has elements."""
    for version in versions:
        yield map_name(version, 1, sticky=False)
        yield from (map_name(version, size, sticky=sticky) for sticky in (False, True) for size in slots.SIZES[1:])
        yield from (f"exported{version}", f"hairpin{version}")


def difference(old: VipTable, new: VipTable, *, versions: Collection[int] = (4, 6)) -> ElementChanges:
    """Return what turns ``old`` into ``new``: only the slots whose target changes.

    Addresses of families that ``versions`` lacks are left out: they have no maps.
    """
    before: dict[str, dict[bytes, bytes]] = defaultdict(dict)
    after: dict[str, dict[bytes, bytes]] = defaultdict(dict)
    for frontend in old.backends.keys() | new.backends.keys():
        left, right = old.backends.get(frontend), new.backends.get(frontend)
        if left != right:
            _put_slots(before, frontend, left)
            _put_slots(after, frontend, right)
    _put_sets(before, old, without=new)
    _put_sets(after, new, without=old)
    existing = {*map_and_set_names(versions)}
    return ElementChanges(_missing(before, after, existing), _missing(after, before, existing))


def frame(changes: ElementChanges, *, table: str) -> Iterator[wire.Message]:
    """Frame changes: deletions first, since a slot's next target has the same key."""
    for kind, verb, elements in (
        (transaction.DELETE_ELEMENT, "delete from", changes.removed),
        (transaction.NEW_ELEMENT, "add to", changes.added),
    ):
        for name, members in elements.items():
            encoded = _encode(members)
            for start in range(0, len(encoded), _MESSAGE_ELEMENTS):
                part = wire.attribute(_ELEMENTS | _NESTED, b"".join(encoded[start : start + _MESSAGE_ELEMENTS]))
                yield wire.Message(kind, wire.Flag.CREATE, _set_head(table, name) + part, f"{verb} {name}")


def frame_by_subject(changes: ElementChanges, *, table: str) -> Iterator[tuple[Subject | None, wire.Message]]:
    """Frame changes, each addition with its subject (None for deletions).

    It costs more than ``frame``, but the kernel's refusals then identify the subjects.
    """
    yield from ((None, message) for message in frame(ElementChanges(changes.removed, {}), table=table))
    for name, elements in changes.added.items():
        by_subject: dict[Subject, dict[bytes, bytes]] = defaultdict(dict)
        for key, value in elements.items():
            by_subject[_subject(name, key)][key] = value
        for subject, members in by_subject.items():
            changed = ElementChanges({}, {name: members})
            yield from ((subject, message) for message in frame(changed, table=table))


def frame_flush(versions: Iterable[int], *, table: str) -> Iterator[wire.Message]:
    """Frame the deletion of all elements."""
    for name in map_and_set_names(versions):
        yield wire.Message(transaction.DELETE_ELEMENT, wire.Flag(0), _set_head(table, name), f"empty {name}")


def frame_table_deletion(table: str) -> wire.Message:
    """Frame the deletion of a table."""
    body = transaction.HEAD + wire.text(transaction.TABLE_NAME, table)
    return wire.Message(transaction.DELETE_TABLE, wire.Flag(0), body, f"delete table {table}")


def frame_wake(table: str) -> wire.Message:
    """Frame the message that wakes a dormant table."""
    flags = wire.attribute(transaction.TABLE_FLAGS, bytes(4))
    body = transaction.HEAD + wire.text(transaction.TABLE_NAME, table) + flags
    return wire.Message(transaction.NEW_TABLE, wire.Flag(0), body, f"wake table {table}")


def _set_head(table: str, name: str) -> bytes:
    return transaction.HEAD + wire.text(transaction.TABLE_NAME, table) + wire.text(_SET, name)


def _encode(elements: Mapping[bytes, bytes]) -> list[bytes]:
    """Encode elements of one map or set.

    Nothing may rely on equal lengths: the kernel refuses an element of the wrong length only as long as its head gives
    the true one.
    """
    heads = {lengths: _heads(*lengths) for lengths in {(len(key), len(value)) for key, value in elements.items()}}
    encoded = []
    for key, value in elements.items():
        head, middle = heads[len(key), len(value)]
        encoded.append(b"".join((head, key, middle, value)))
    return encoded


def _heads(key: int, value: int) -> tuple[bytes, bytes]:
    """Return what comes before a key and before a value of these lengths, both multiples of 4."""
    data = _nest(_DATA, wire.attribute(_VALUE, bytes(value))) if value else b""
    size = 4 + len(_nest(_KEY, wire.attribute(_VALUE, bytes(key)))) + len(data)
    head = struct.pack("=HHHHHH", size, _ITEM | _NESTED, key + 8, _KEY | _NESTED, key + 4, _VALUE)
    return head, data[: len(data) - value]


def _nest(kind: int, member: bytes) -> bytes:
    return wire.attribute(kind | _NESTED, member)


def _put_slots(elements: dict[str, dict[bytes, bytes]], frontend: Frontend, backend: Backend | None) -> None:
    if backend is None or not backend.targets:
        return
    by_name = {f"{target.address} . {target.port}": _value(target) for target in backend.targets}
    # Never change these names: they decide which target gets which slot, and nodes of two versions must agree.
    owners = slots.assign(tuple(sorted(by_name)))
    members = elements[map_name(frontend.address.version, len(owners), sticky=backend.sticky)]
    key = frontend.address.packed + _PROTOCOL_PORT.pack(_PROTOCOLS[frontend.protocol], frontend.port)
    if len(owners) == 1:
        members[key] = by_name[owners[0]]
    else:
        members.update((key + slot, by_name[owner]) for slot, owner in zip(_SLOTS, owners, strict=False))


def _subject(name: str, key: bytes) -> Subject:
    """Parse an element's key into its subject."""
    if name.startswith("hairpin"):
        return ipaddress.ip_address(key[: len(key) // 2])
    width = 4 if len(key) < _WIDEST_IPV4 else 16
    number, port = _PROTOCOL_PORT.unpack_from(key, width)
    protocol = next(text for text, value in _PROTOCOLS.items() if value == number)
    kind = ExportedPort if name.startswith("exported") else Frontend
    return kind(ipaddress.ip_address(key[:width]), protocol, port)


def _value(target: BackendAddress) -> bytes:
    return target.address.packed + _PORT.pack(target.port)


def _put_sets(elements: dict[str, dict[bytes, bytes]], table: VipTable, *, without: VipTable) -> None:
    for port in table.exported - without.exported:
        key = port.address.packed + _PROTOCOL_PORT.pack(_PROTOCOLS[port.protocol], port.port)
        elements[f"exported{port.address.version}"][key] = b""
    for address in table.hairpin - without.hairpin:
        elements[f"hairpin{address.version}"][address.packed * 2] = b""


def _missing(elements: Elements, others: Elements, existing: Collection[str]) -> Elements:
    """Return the elements, in ``existing`` maps and sets, that ``others`` lacks or has with another value."""
    missing = {}
    for name, members in elements.items():
        if name not in existing:
            continue
        counterpart = others.get(name, {})
        left = {key: value for key, value in members.items() if counterpart.get(key) != value}
        if left:
            missing[name] = left
    return missing
