"""Keeps all answers, service by service, and computes the change from one state to the next.

Invariant: a name exists as long as any service has it or a name below it, however services come and go. Names are
relative to the zone: every zone holds the same names, so each is kept and sent once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from crossdns.zone import encode, zone
from fleetboard.model.keys import ServiceKey


class AnswerEntry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One answer to set; without records, one to remove. Its fields are those of ``encode.Answer``."""

    question: bytes
    count: int = 0
    records: bytes = b""
    step: int = 0


class ZoneChange(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The difference between two states of the table; apply the fields in their order.

    Attributes:
        appeared: Names without records that exist from now on, because names below them do.
        entries: Answers to set or remove.
        vanished: Names that no longer exist, or that have records now.
    """

    appeared: list[bytes] = []
    entries: list[AnswerEntry] = []
    vanished: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self.appeared or self.entries or self.vanished)


class _ServiceAnswers(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The names and answers of one service.

    Attributes:
        names: Number of names, with and without records.
        bare: Names without records.
        entries: Answers, in the order of their questions.
    """

    names: int = 0
    bare: list[bytes] = []
    entries: list[AnswerEntry] = []


_NONE = _ServiceAnswers()
_decoder = msgspec.msgpack.Decoder(_ServiceAnswers)


class Table:
    """The state that the answering processes must reach.

    Services are kept encoded: as objects they take ten times the memory, and are read only when they change.
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

    def put(self, key: ServiceKey, records: Mapping[str, zone.Records]) -> ZoneChange:
        """Replace the names of one service; without records it has no names."""
        packed = self._services.get(key, b"")
        new = _read_service(key, records) if records else _NONE
        fresh = msgspec.msgpack.encode(new) if records else b""
        if packed == fresh:
            return ZoneChange()
        old = _decoder.decode(packed) if packed else _NONE
        if records:
            self._services[key] = fresh
        else:
            del self._services[key]
        before = {*old.bare, *self._above(key.namespace)}
        self._count(key.namespace, bool(records) - bool(packed))
        after = {*new.bare, *self._above(key.namespace)}
        self._names += new.names - len(new.bare) + len(after) - (old.names - len(old.bare) + len(before))
        return ZoneChange(sorted(after - before), list(_differences(old.entries, new.entries)), sorted(before - after))

    def _count(self, namespace: str, more: int) -> None:
        count = self._namespaces.pop(namespace, 0) + more
        if count:
            self._namespaces[namespace] = count

    def _above(self, namespace: str) -> list[bytes]:
        """Return the names above a namespace's services that exist."""
        texts = [zone.domain_of(namespace)] if namespace in self._namespaces else []
        return [encode.relative(text) for text in (*texts, *([zone.SERVICES] if self._namespaces else []))]

    def snapshot(self) -> Iterator[ZoneChange]:
        """Iterate over the whole state, as changes to an empty table."""
        above = {name for namespace in self._namespaces for name in self._above(namespace)}
        yield ZoneChange([b"", *sorted(above)], list(_static_entries(self._server)))
        for packed in self._services.values():
            of_service = _decoder.decode(packed)
            yield ZoneChange(of_service.bare, of_service.entries)


def _read_service(key: ServiceKey, records: Mapping[str, zone.Records]) -> _ServiceAnswers:
    """Encode the names of a service, without those that are too long for any zone."""
    entries: list[AnswerEntry] = []
    bare: set[bytes] = set()
    names = 0
    for text in zone.names_of(key, records):
        with contextlib.suppress(encode.NameTooLongError):
            name = encode.relative(text)
            answers = list(encode.answers(name, records.get(text, zone.Records())))
            entries += [AnswerEntry(asked, answer.count, answer.records, answer.step) for asked, answer in answers]
            bare.update([name] if not answers else [])
            names += 1
    return _ServiceAnswers(names, sorted(bare), sorted(entries, key=lambda entry: entry.question))


def _differences(old: list[AnswerEntry], new: list[AnswerEntry]) -> Iterator[AnswerEntry]:
    before, after = ({entry.question: entry for entry in entries} for entries in (old, new))
    for question in before.keys() - after.keys():
        yield AnswerEntry(question)
    for question, entry in after.items():
        if before.get(question) != entry:
            yield entry


def _static_entries(server: str) -> Iterator[AnswerEntry]:
    """Return the entries that do not depend on services: NS and the version of the DNS schema."""
    version = encode.record(encode.TYPE_TXT, zone.VERSION_TTL_S, encode.text(zone.VERSION))
    server_record = encode.record(encode.TYPE_NS, zone.TTL_S, encode.name(server))
    yield AnswerEntry(encode.question(encode.relative(zone.VERSION_NAME), encode.TYPE_TXT), 1, version)
    yield AnswerEntry(encode.question(b"", encode.TYPE_NS), 1, server_record)


def merge(changes: list[ZoneChange]) -> ZoneChange:
    """Join consecutive changes; a name may vanish with one and appear with a later one."""
    exists: dict[bytes, bool] = {}
    entries: dict[bytes, AnswerEntry] = {}
    for change in changes:
        exists.update(dict.fromkeys(change.appeared, True))
        exists.update(dict.fromkeys(change.vanished, False))
        entries.update((entry.question, entry) for entry in change.entries)
    return ZoneChange(
        [name for name, there in exists.items() if there],
        list(entries.values()),
        [name for name, there in exists.items() if not there],
    )


def parts(change: ZoneChange, *, size: int = 256) -> Iterator[ZoneChange]:
    """Split a change into parts so small that no answer waits while one is applied."""
    for field in ("appeared", "entries", "vanished"):
        items: list[Any] = getattr(change, field)
        for at in range(0, len(items), size):
            yield ZoneChange(**{field: items[at : at + size]})
