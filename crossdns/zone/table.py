"""All answers, kept service by service, and what changes from one state to the next.

One invariant: a name exists as long as any service has it or a name below it, however services come and go. Names are
relative to the zone: every zone holds the same, so each is kept and sent once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from crossdns.zone import encode, zone
from fleetboard.model.keys import ServiceKey


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One answer to set; without records, one to remove. Its fields are those of ``encode.Answer``."""

    question: bytes
    count: int = 0
    records: bytes = b""
    step: int = 0


class Change(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Differences between two states of the table. To be applied in the order of the fields.

    Attributes:
        appeared: Names that hold nothing and exist from now on, for there are names below them.
        entries: Answers.
        vanished: Names that no longer exist, or that hold something by now.
    """

    appeared: list[bytes] = []
    entries: list[Entry] = []
    vanished: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self.appeared or self.entries or self.vanished)


class _Service(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one service has.

    Attributes:
        names: How many names, with and without records.
        bare: Those without.
        entries: In the order of their questions.
    """

    names: int = 0
    bare: list[bytes] = []
    entries: list[Entry] = []


_NONE = _Service()
_decoder = msgspec.msgpack.Decoder(_Service)


class Table:
    """The state that the answering processes are to have.

    Services are kept encoded: as objects they take ten times the memory, and one is looked at when it changes.
    """

    def __init__(self, *, server: str) -> None:
        self._services: dict[ServiceKey, bytes] = {}
        self._namespaces: dict[str, int] = {}
        self._names = 0
        self._server = server

    def __len__(self) -> int:
        return self._names

    def services(self) -> set[ServiceKey]:
        """Return the services that have names."""
        return set(self._services)

    def put(self, key: ServiceKey, records: Mapping[str, zone.Records]) -> Change:
        """Replace the names of one service; without records it has none any more."""
        packed = self._services.get(key, b"")
        new = _read_service(key, records) if records else _NONE
        fresh = msgspec.msgpack.encode(new) if records else b""
        if packed == fresh:
            return Change()
        old = _decoder.decode(packed) if packed else _NONE
        if records:
            self._services[key] = fresh
        else:
            del self._services[key]
        before = {*old.bare, *self._above(key.namespace)}
        self._count(key.namespace, bool(records) - bool(packed))
        after = {*new.bare, *self._above(key.namespace)}
        self._names += new.names - len(new.bare) + len(after) - (old.names - len(old.bare) + len(before))
        return Change(sorted(after - before), list(_differences(old.entries, new.entries)), sorted(before - after))

    def _count(self, namespace: str, more: int) -> None:
        count = self._namespaces.pop(namespace, 0) + more
        if count:
            self._namespaces[namespace] = count

    def _above(self, namespace: str) -> list[bytes]:
        """Return the names above a namespace's services, as far as they exist."""
        texts = [zone.domain_of(namespace)] if namespace in self._namespaces else []
        return [encode.relative(text) for text in (*texts, *([zone.SERVICES] if self._namespaces else []))]

    def snapshot(self) -> Iterator[Change]:
        """Iterate over the whole state, as changes from nothing."""
        above = {name for namespace in self._namespaces for name in self._above(namespace)}
        yield Change([b"", *sorted(above)], list(_static_entries(self._server)))
        for packed in self._services.values():
            of_service = _decoder.decode(packed)
            yield Change(of_service.bare, of_service.entries)


def _read_service(key: ServiceKey, records: Mapping[str, zone.Records]) -> _Service:
    """Encode the names of a service; those that are too long for any zone are left out."""
    entries: list[Entry] = []
    bare: set[bytes] = set()
    names = 0
    for text in zone.names_of(key, records):
        with contextlib.suppress(encode.NameTooLongError):
            name = encode.relative(text)
            answers = list(encode.answers(name, records.get(text, zone.Records())))
            entries += [Entry(asked, answer.count, answer.records, answer.step) for asked, answer in answers]
            bare.update([name] if not answers else [])
            names += 1
    return _Service(names, sorted(bare), sorted(entries, key=lambda entry: entry.question))


def _differences(old: list[Entry], new: list[Entry]) -> Iterator[Entry]:
    before, after = ({entry.question: entry for entry in entries} for entries in (old, new))
    for question in before.keys() - after.keys():
        yield Entry(question)
    for question, entry in after.items():
        if before.get(question) != entry:
            yield entry


def _static_entries(server: str) -> Iterator[Entry]:
    """Return what every zone holds whatever its services: NS and the version of the DNS schema."""
    version = encode.record(encode.TYPE_TXT, zone.VERSION_TTL_S, encode.text(zone.VERSION))
    server_record = encode.record(encode.TYPE_NS, zone.TTL_S, encode.name(server))
    yield Entry(encode.question(encode.relative(zone.VERSION_NAME), encode.TYPE_TXT), 1, version)
    yield Entry(encode.question(b"", encode.TYPE_NS), 1, server_record)


def merge(changes: list[Change]) -> Change:
    """Join changes that were made one after the other; a name may vanish with one and appear with a later one."""
    exists: dict[bytes, bool] = {}
    entries: dict[bytes, Entry] = {}
    for change in changes:
        exists.update(dict.fromkeys(change.appeared, True))
        exists.update(dict.fromkeys(change.vanished, False))
        entries.update((entry.question, entry) for entry in change.entries)
    return Change(
        [name for name, there in exists.items() if there],
        list(entries.values()),
        [name for name, there in exists.items() if not there],
    )


def parts(change: Change, *, size: int = 256) -> Iterator[Change]:
    """Split a change so that applying one part never keeps an answer waiting."""
    for field in ("appeared", "entries", "vanished"):
        items: list[Any] = getattr(change, field)
        for at in range(0, len(items), size):
            yield Change(**{field: items[at : at + size]})
