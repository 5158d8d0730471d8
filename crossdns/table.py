"""All answers of both zones, kept service by service, and what changes from one state to the next.

One invariant: a name exists as long as any service has it or a name below it, however services come and go.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from crossdns import encode, zone


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One answer to set; without records, one to remove."""

    question: bytes
    count: int = 0
    records: bytes = b""
    step: int = 0


class Change(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Differences between two states of the table. To be applied in the order of the fields."""

    appeared: list[bytes] = []
    entries: list[Entry] = []
    vanished: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self.appeared or self.entries or self.vanished)


class Table:
    """The state that the answering processes are to have."""

    def __init__(self, zones: tuple[str, ...], *, server: str) -> None:
        self._apexes = tuple(encode.name(zone_name) for zone_name in zones)
        self._services: dict[zone.ServiceKey, dict[str, zone.Records]] = {}
        self._answers: dict[bytes, encode.Answer] = {}
        self._uses: collections.Counter[str] = collections.Counter()
        for apex in self._apexes:
            self._answers.update(_static_answers(apex, server))

    def __len__(self) -> int:
        return len(self._uses)

    def services(self) -> set[zone.ServiceKey]:
        """Return the services that have names."""
        return set(self._services)

    def put(self, key: zone.ServiceKey, records: Mapping[str, zone.Records]) -> Change:
        """Replace the names of one service; without records it has none any more."""
        old = self._services.get(key, {})
        if old == records:
            return Change()
        if records:
            self._services[key] = dict(records)
        else:
            self._services.pop(key, None)
        appeared, vanished = self._count(zone.names_of(old), zone.names_of(records))
        entries = [
            entry
            for name in old.keys() | records.keys()
            if old.get(name) != records.get(name)
            for entry in self._replace(name, records.get(name, zone.Records()))
        ]
        return Change(appeared, entries, vanished)

    def _count(self, old: set[str], new: set[str]) -> tuple[list[bytes], list[bytes]]:
        """Count the uses of every name; return the encoded names that begin and cease to exist."""
        appeared = [name for name in new - old if not self._uses[name]]
        self._uses.update(new - old)
        self._uses.subtract(old - new)
        vanished = [name for name in old - new if not self._uses[name]]
        for name in vanished:
            del self._uses[name]
        return [o for n in appeared for o in self._owners(n)], [o for n in vanished for o in self._owners(n)]

    def _owners(self, name: str) -> dict[bytes, bytes]:
        """Encode a relative name under every zone: zone by name, without those where it would be too long."""
        found = {}
        for apex in self._apexes:
            with contextlib.suppress(encode.NameTooLongError):
                found[encode.below(name, apex)] = apex
        return found

    def _replace(self, name: str, records: zone.Records) -> Iterator[Entry]:
        for owner, apex in self._owners(name).items():
            fresh = dict(encode.answers(owner, records, apex=apex))
            for type_ in (encode.TYPE_A, encode.TYPE_AAAA, encode.TYPE_SRV):
                asked = encode.question(owner, type_)
                answer = fresh.get(asked)
                if answer == self._answers.get(asked):
                    continue
                if answer is None:
                    del self._answers[asked]
                    yield Entry(asked)
                else:
                    self._answers[asked] = answer
                    yield _entry(asked, answer)

    def snapshot(self) -> Change:
        """Return the whole state as a change from nothing."""
        static = [*self._apexes, *(encode.name(zone.VERSION_NAME)[:-1] + apex for apex in self._apexes)]
        owners = [owner for name in self._uses for owner in self._owners(name)]
        return Change(static + owners, [_entry(asked, answer) for asked, answer in self._answers.items()], [])


def _static_answers(apex: bytes, server: str) -> dict[bytes, encode.Answer]:
    """Return what every zone holds whatever its services: NS and the version of the DNS schema."""
    version = encode.record(encode.TYPE_TXT, zone.VERSION_TTL_S, encode.text(zone.VERSION))
    server_record = encode.record(encode.TYPE_NS, zone.TTL_S, encode.name(server))
    owner = encode.name(zone.VERSION_NAME)[:-1] + apex
    return {
        encode.question(owner, encode.TYPE_TXT): encode.Answer(1, version),
        encode.question(apex, encode.TYPE_NS): encode.Answer(1, server_record),
    }


def _entry(asked: bytes, answer: encode.Answer) -> Entry:
    return Entry(asked, answer.count, answer.records, answer.step)


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
