"""The journal through torn writes, damage, and disks that fail."""

from __future__ import annotations

import errno
import os
import pathlib
import threading
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnf.attach import errors, journal, records


def make_record(number: int = 1, *, container: str = "c", address: str = "") -> records.Record:
    return records.Record(
        container_id=f"{container}{number}",
        interface="net1",
        addresses=[address or f"10.112.4.{number}"],
        mac="0a:00:00:00:00:01",
        cookie=number,
        boot="boot",
    )


ENTRIES: list[records.Entry] = [
    records.Reserve(make_record(1)),
    records.Commit("c1", "net1", 10112),
    records.Reserve(make_record(2)),
    records.Commit("c2", "net1", 10112),
    records.Release("c1", "net1", ["10.112.4.1"], 1000.0),
    records.Reserve(make_record(3)),
]
LINES = [journal.encode(entry) for entry in ENTRIES]


def open_journal(path: pathlib.Path) -> journal.Journal:
    made = journal.Journal(path)
    entries, _ = made.read()
    made.rewrite(entries)
    return made


def test_what_was_written_is_read_back_whole(tmp_path: pathlib.Path) -> None:
    made = open_journal(tmp_path / "journal")
    offset = 0
    for entry in ENTRIES:
        offset = made.append(entry)
    made.sync(offset)
    made.close()
    assert journal.Journal(tmp_path / "journal").read() == (ENTRIES, 0)


def test_a_tail_torn_at_any_byte_costs_the_last_entry_alone() -> None:
    content = b"".join(LINES)
    for cut in range(len(content) - len(LINES[-1]), len(content) - 1):
        found, _ = journal.decode(content[:cut])
        assert found == ENTRIES[:-1]
    # Only the newline is missing: the entry itself is whole.
    assert journal.decode(content[:-1]) == (ENTRIES, 0)


def test_damage_in_the_middle_costs_one_entry() -> None:
    broken = bytearray(b"".join(LINES))
    broken[len(LINES[0]) + 40] ^= 0x20
    assert journal.decode(bytes(broken)) == ([ENTRIES[0], *ENTRIES[2:]], 1)


def test_a_line_that_reads_well_and_is_not_what_was_written_is_damaged() -> None:
    broken = LINES[0].replace(b"10.112.4.1", b"10.112.4.9")
    assert journal.decode(broken + LINES[2]) == ([ENTRIES[2]], 1)


def test_entries_of_a_later_version_are_passed_over() -> None:
    body = b'{"entry":"hibernate","container_id":"x"}'
    line = f"{len(body):08x} {zlib.crc32(body):08x} ".encode() + body + b"\n"
    assert journal.decode(LINES[0] + line + LINES[1]) == (ENTRIES[:2], 1)


@given(st.binary(max_size=300), st.integers(0, len(LINES)))
@settings(max_examples=300)
def test_bytes_that_are_no_journal_never_become_entries(noise: bytes, at: int) -> None:
    content = b"".join(LINES[:at]) + b"\n" + noise + b"\n" + b"".join(LINES[at:])
    found, _ = journal.decode(content)
    assert found == ENTRIES


def test_a_full_disk_leaves_no_half_entry(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = open_journal(tmp_path / "journal")
    made.append(ENTRIES[0])
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, view: _half(real, file, view))
    with pytest.raises(errors.JournalError, match="No space left"):
        made.append(ENTRIES[1])
    monkeypatch.undo()
    assert not made.healthy
    with pytest.raises(errors.JournalError, match="earlier failure"):
        made.append(ENTRIES[1])
    made.rewrite(ENTRIES[:3])
    made.append(ENTRIES[3])
    made.close()
    assert journal.Journal(tmp_path / "journal").read() == (ENTRIES[:4], 0)


def _half(real: object, file: int, view: memoryview) -> int:
    assert callable(real)
    if len(view) > 20:
        return int(real(file, view[:20]))
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fails_to_sync_is_not_trusted_until_the_journal_is_rewritten(tmp_path: pathlib.Path) -> None:
    broken = threading.Event()

    def fsync(file: int) -> None:
        if broken.is_set():
            raise OSError(errno.EIO, "Input/output error")

    made = journal.Journal(tmp_path / "journal", fsync=fsync)
    made.rewrite([])
    broken.set()
    offset = made.append(ENTRIES[0])
    with pytest.raises(errors.JournalError):
        made.sync(offset)
    assert not made.healthy
    with pytest.raises(errors.JournalError, match="Input/output"):
        made.rewrite([ENTRIES[0]])
    broken.clear()
    made.rewrite([ENTRIES[0]])
    made.sync(offset)
    made.sync(made.append(ENTRIES[1]))
    made.close()


def test_a_read_only_folder_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.JournalError, match="nowhere"):
        journal.Journal(tmp_path / "nowhere" / "journal").rewrite([])


def test_those_who_wait_at_one_time_share_a_sync(tmp_path: pathlib.Path) -> None:
    syncs: list[int] = []
    gate = threading.Event()

    def fsync(file: int) -> None:
        syncs.append(file)
        if len(syncs) == 2:  # the first is rewrite's
            gate.wait(10)

    made = journal.Journal(tmp_path / "journal", fsync=fsync)
    made.rewrite([])
    offsets = [made.append(records.Reserve(make_record(n))) for n in range(1, 30)]
    waiting = [threading.Thread(target=made.sync, args=(offset,)) for offset in offsets]
    for thread in waiting:
        thread.start()
    gate.set()
    for thread in waiting:
        thread.join(10)
        assert not thread.is_alive()
    made.close()
    assert len(syncs) <= 4


def test_a_second_process_waits_for_the_folder_and_gives_up(tmp_path: pathlib.Path) -> None:
    held = journal.acquire(tmp_path / "lock")
    with pytest.raises(errors.JournalError, match="held by another"):
        journal.acquire(tmp_path / "lock", timeout_s=0.1)
    os.close(held)
    os.close(journal.acquire(tmp_path / "lock", timeout_s=0.1))


def test_a_shortened_journal_means_the_same() -> None:
    state = records.fold(ENTRIES)
    again = records.fold(records.unfold(state))
    assert again == state
    assert set(state.records) == {("c2", "net1"), ("c3", "net1")}
    assert state.open == {("c3", "net1")}
    assert state.released == {"10.112.4.1": 1000.0}
