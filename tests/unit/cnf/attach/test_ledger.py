"""No two pods ever hold one address, wherever the process or the machine stops."""

from __future__ import annotations

import ipaddress
import pathlib
import tempfile

import msgspec
import pytest
from fake_clock import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cnf.attach import errors, ipam, journal, records
from cnf.attach.ledger import Ledger

BLOCK = ipaddress.ip_network("10.112.4.0/29")


def draft(number: int) -> records.Record:
    return records.Record(
        container_id=f"c{number}", interface="net1", addresses=[], mac="0a:00:00:00:00:01", cookie=number, boot="b"
    )


def make_ledger(folder: pathlib.Path, clock: FakeClock, *, compact_bytes: int = 1 << 20) -> Ledger:
    made = Ledger(journal.Journal(folder / "journal"), clock=clock, wall=clock, compact_bytes=compact_bytes)
    made.load()
    made.set_blocks([BLOCK], excluded=[BLOCK.network_address])
    return made


def test_an_address_sticks_to_its_key_over_a_restart_and_a_retry(tmp_path: pathlib.Path) -> None:
    clock = FakeClock(1_000_000)
    ledger = make_ledger(tmp_path, clock)
    record, _ = ledger.reserve(draft(1))
    ledger.commit(record.key, index=5)
    ledger.close()
    again = make_ledger(tmp_path, clock)
    assert [(r.addresses, r.index) for r in again.attached()] == [(record.addresses, 5)]
    retried, _ = again.reserve(draft(1))
    assert retried.addresses == record.addresses
    other, _ = again.reserve(draft(2))
    assert other.addresses != record.addresses
    again.close()


def test_a_quarantine_outlives_a_restart_and_gets_no_longer(tmp_path: pathlib.Path) -> None:
    clock = FakeClock(1_000_000)
    ledger = make_ledger(tmp_path, clock)
    record, _ = ledger.reserve(draft(1))
    ledger.release(record.key)
    ledger.close()
    clock.now += 20
    again = make_ledger(tmp_path, clock)
    assert again.usage() == ipam.Usage(used=0, free=6, quarantined=1)
    again.close()
    clock.now -= 5000
    set_back = make_ledger(tmp_path, clock)
    assert set_back.usage().quarantined == 1
    clock.now += ipam.QUARANTINE_S
    assert set_back.usage().quarantined == 0
    set_back.close()


def test_a_reservation_that_cannot_be_written_takes_nothing(tmp_path: pathlib.Path) -> None:
    def fsync(file: int) -> None:
        raise OSError(30, "Read-only file system")

    clock = FakeClock(1_000_000)
    ledger = Ledger(journal.Journal(tmp_path / "journal", fsync=fsync), clock=clock, wall=clock)
    ledger.load()
    ledger.set_blocks([BLOCK], excluded=[BLOCK.network_address])
    with pytest.raises(errors.JournalError, match="Read-only"):
        ledger.reserve(draft(1))
    assert ledger.usage() == ipam.Usage(used=0, free=7)
    ledger.close()


def test_a_reservation_that_fills_the_disk_takes_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = make_ledger(tmp_path, FakeClock(1_000_000))

    def write(file: int, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "write_all", write)
    with pytest.raises(errors.JournalError, match="No space left"):
        ledger.reserve(draft(1))
    assert ledger.usage() == ipam.Usage(used=0, free=7)
    ledger.close()


def test_a_release_happens_though_the_disk_is_full(tmp_path: pathlib.Path) -> None:
    failing: list[bool] = []

    def fsync(file: int) -> None:
        if failing:
            raise OSError(28, "No space left on device")

    clock = FakeClock(1_000_000)
    ledger = Ledger(journal.Journal(tmp_path / "journal", fsync=fsync), clock=clock, wall=clock)
    ledger.load()
    ledger.set_blocks([BLOCK], excluded=[BLOCK.network_address])
    record, offset = ledger.reserve(draft(1))
    ledger.sync(offset)
    failing.append(True)
    with pytest.raises(errors.JournalError):
        ledger.sync(ledger.commit(record.key, index=1))
    assert ledger.release(record.key)
    assert ledger.usage().used == 0
    failing.clear()
    ledger.reserve(draft(2))
    ledger.close()
    entries, damaged = journal.Journal(tmp_path / "journal").read()
    assert (set(records.fold(entries).records), damaged) == ({("c2", "net1")}, 0)


def test_no_block_is_returned_while_the_journal_may_name_pods_in_it(tmp_path: pathlib.Path) -> None:
    full = False

    def fsync(_file: int) -> None:
        if full:
            raise OSError(28, "No space left on device")

    clock = FakeClock(1_000_000)
    ledger = Ledger(journal.Journal(tmp_path / "journal", fsync=fsync), clock=clock, wall=clock)
    ledger.load()
    ledger.set_blocks([BLOCK], excluded=[])
    record, offset = ledger.reserve(draft(1))
    ledger.sync(offset)
    full = True
    with pytest.raises(errors.JournalError):
        ledger.sync(ledger.commit(record.key, index=5))
    ledger.release(record.key, quarantine=False)
    assert ledger.empty_blocks() == (BLOCK,)
    assert not ledger.close_blocks([BLOCK], excluded=[])
    full = False
    assert ledger.close_blocks([BLOCK], excluded=[])
    ledger.close()


def test_a_journal_that_grows_is_shortened(tmp_path: pathlib.Path) -> None:
    clock = FakeClock(1_000_000)
    ledger = make_ledger(tmp_path, clock, compact_bytes=4000)
    for number in range(200):
        record, _ = ledger.reserve(draft(number))
        ledger.commit(record.key, index=1)
        ledger.release(record.key, quarantine=False)
    ledger.close()
    assert (tmp_path / "journal").stat().st_size < 6000


def test_a_retry_that_asks_for_another_address_gets_that_one_or_none(tmp_path: pathlib.Path) -> None:
    ledger = make_ledger(tmp_path, FakeClock(1_000_000))
    first, _ = ledger.reserve(draft(1))
    wish = ipaddress.ip_address("10.112.4.6")
    retried, _ = ledger.reserve(draft(1), requested=[wish])
    assert (first.addresses, retried.addresses) == (["10.112.4.1"], [str(wish)])
    assert ledger.usage() == ipam.Usage(used=1, free=5, quarantined=1)
    ledger.close()


def test_an_address_of_a_block_that_is_no_longer_the_nodes_is_not_kept_for_a_retry(tmp_path: pathlib.Path) -> None:
    ledger = make_ledger(tmp_path, FakeClock(1_000_000))
    ledger.reserve(draft(1))
    other = ipaddress.ip_network("10.112.9.0/29")
    ledger.set_blocks([other], excluded=[other.network_address])
    retried, _ = ledger.reserve(draft(1))
    assert retried.addresses == ["10.112.9.1"]
    ledger.close()


def test_a_journal_copied_from_another_node_says_nothing(tmp_path: pathlib.Path) -> None:
    clock = FakeClock(1_000_000)

    def open_as(node: str) -> Ledger:
        made = Ledger(journal.Journal(tmp_path / "journal"), node=node, clock=clock, wall=clock)
        made.load()
        made.set_blocks([BLOCK], excluded=[BLOCK.network_address])
        return made

    ledger = open_as("a")
    record, _ = ledger.reserve(draft(1))
    ledger.commit(record.key, index=1)
    ledger.close()
    same = open_as("a")
    assert same.holds(record.parse_addresses()[0])
    same.close()
    copy = open_as("b")
    assert (copy.attached(), copy.usage()) == ([], ipam.Usage(used=0, free=7))
    copy.close()
    back = open_as("a")
    assert back.attached() == []
    back.close()


def test_a_journal_from_before_it_named_its_node_is_read(tmp_path: pathlib.Path) -> None:
    clock = FakeClock(1_000_000)
    ledger = make_ledger(tmp_path, clock)
    record, _ = ledger.reserve(draft(1))
    ledger.close()
    named = Ledger(journal.Journal(tmp_path / "journal"), node="a", clock=clock, wall=clock)
    named.load()
    assert named.find(record.key) == record
    named.close()


def test_the_release_that_was_damaged_does_not_free_the_address_under_its_next_holder(tmp_path: pathlib.Path) -> None:
    clock = FakeClock(1_000_000)
    ledger = make_ledger(tmp_path, clock)
    ledger.set_blocks([ipaddress.ip_network("10.112.4.0/31")], excluded=[BLOCK.network_address])
    old, _ = ledger.reserve(draft(1))
    ledger.commit(old.key, index=1)
    ledger.release(old.key, quarantine=False)
    new, _ = ledger.reserve(draft(2))
    ledger.commit(new.key, index=1)
    ledger.close()
    lines = (tmp_path / "journal").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal").write_bytes(b"".join(line for line in lines if b'"release"' not in line))
    again = make_ledger(tmp_path, clock)
    assert [record.key for record in again.attached()] == [new.key]
    assert not again.release(old.key)
    assert again.holds(new.parse_addresses()[0])
    assert again.usage().used == 1
    again.close()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["reserve", "commit", "release"])), max_size=25))
def test_a_journal_that_ends_at_any_byte_means_what_was_true_at_its_last_whole_entry(
    history: list[tuple[int, str]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, clock = pathlib.Path(name), FakeClock(1_000_000)
        ledger = make_ledger(folder, clock)
        moments = [(0, *_read(ledger))]
        for number, action in history:
            record = draft(number)
            if action == "reserve" and ledger.find(record.key) is None:
                ledger.reserve(record)
            elif action == "commit" and ledger.find(record.key) is not None:
                ledger.commit(record.key, index=1)
            elif action == "release":
                ledger.release(record.key)
            clock.now += 61
            moments.append(((folder / "journal").stat().st_size, *_read(ledger)))
        ledger.close()
        whole = (folder / "journal").read_bytes()
    for cut in range(len(whole) + 1):
        found, _ = journal.decode(whole[:cut])
        state = records.fold(found)
        # An entry is whole though its newline is missing.
        _, held, unfinished = [moment for moment in moments if moment[0] <= cut + 1][-1]
        assert ({key: record.addresses for key, record in state.records.items()}, state.open) == (held, unfinished)


def _read(ledger: Ledger) -> tuple[dict[records.Key, list[str]], set[records.Key]]:
    unfinished = {record.key for record in ledger.unfinished()}
    everything = [*ledger.attached(), *ledger.unfinished()]
    return {record.key: record.addresses for record in everything}, unfinished


@given(st.data())
def test_whichever_lines_are_damaged_no_two_attachments_have_one_address(data: st.DataObject) -> None:
    entries: list[records.Entry] = []
    holders: dict[str, records.Key] = {}
    for number in range(data.draw(st.integers(0, 20))):
        address = data.draw(st.sampled_from(["10.112.4.1", "10.112.4.2", "10.112.4.3"]))
        if address in holders:
            entries.append(records.Release(*holders.pop(address), [address], float(number)))
        record = msgspec.structs.replace(draft(number), addresses=[address])
        holders[address] = record.key
        entries += [records.Reserve(record), records.Commit(*record.key, 1)]
    left = [entry for entry in entries if data.draw(st.booleans())]
    held = [address for record in records.fold(left).records.values() for address in record.addresses]
    assert len(set(held)) == len(held)


class Crashes(RuleBasedStateMachine):
    """ADD and DEL in steps, as the kernel sees them, with a crash before, between and after any of them.

    ``kernel`` is which interfaces stand with which address: what may never be given twice. Each step of an ADD or
    DEL is a rule, so that a crash falls between any two; a torn crash also cuts the journal's last line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)
        self.clock = FakeClock(1_000_000)
        self.ledger = make_ledger(self.path, self.clock)
        self.kernel: dict[records.Key, str] = {}
        self.answered: dict[records.Key, str] = {}
        self.adding: records.Record | None = None
        self.wired = False
        self.deleting: records.Key | None = None
        self.count = 0

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()

    @initialize()
    def start(self) -> None:
        self.count = 0

    def idle(self) -> bool:
        return self.adding is None and self.deleting is None

    @precondition(idle)
    @rule(again=st.booleans())
    def reserve(self, again: bool) -> None:
        self.count += not again
        if (f"c{self.count}", "net1") in self.answered:
            return
        try:
            self.adding, _ = self.ledger.reserve(draft(self.count))
        except errors.ExhaustedError:
            assert len(self.kernel) + self.ledger.usage().quarantined >= 7

    @precondition(lambda self: self.adding is not None and not self.wired)
    @rule()
    def wire(self) -> None:
        assert self.adding is not None
        address = self.adding.addresses[0]
        assert address not in self.kernel.values()
        self.kernel[self.adding.key] = address
        self.wired = True

    @precondition(lambda self: self.wired)
    @rule(cancelled=st.booleans())
    def answer(self, cancelled: bool) -> None:
        assert self.adding is not None
        record = self.adding
        if cancelled:
            del self.kernel[record.key]
            self.ledger.release(record.key, quarantine=False)
        else:
            self.ledger.commit(record.key, index=1)
            self.answered[record.key] = record.addresses[0]
        self.adding, self.wired = None, False

    @precondition(lambda self: self.idle() and self.answered)
    @rule(data=st.data())
    def unlink(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.answered)))
        del self.kernel[key]
        del self.answered[key]
        self.deleting = key

    @precondition(lambda self: self.deleting is not None)
    @rule()
    def free(self) -> None:
        assert self.deleting is not None
        self.ledger.release(self.deleting)
        self.deleting = None

    @rule(torn=st.integers(0, 30))
    def crash(self, torn: int) -> None:
        """The process ends; what it had begun to write may be cut."""
        self.ledger.close()
        if torn and self.adding is not None and not self.wired:
            # RESERVE was being written: nothing of it had an effect yet.
            content = (self.path / "journal").read_bytes()
            (self.path / "journal").write_bytes(content[:-torn])
        self.restart()

    @rule()
    def reboot(self) -> None:
        """All namespaces end with the machine."""
        self.ledger.close()
        self.kernel.clear()
        self.answered.clear()
        self.restart()
        for record in self.ledger.attached():
            self.ledger.release(record.key)

    def restart(self) -> None:
        """As the sweep at start: unfinished ADDs are rolled back; attached without interface, they are dead."""
        self.ledger = make_ledger(self.path, self.clock)
        self.adding, self.wired = None, False
        for record in self.ledger.unfinished():
            self.kernel.pop(record.key, None)
            self.ledger.release(record.key, quarantine=False)
        for record in self.ledger.attached():
            if record.key not in self.kernel:
                self.ledger.release(record.key)
        self.deleting = None

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def nobody_shares_an_address(self) -> None:
        assert len(set(self.kernel.values())) == len(self.kernel)

    @invariant()
    def an_answered_add_keeps_its_address(self) -> None:
        held = {record.key: record.addresses[0] for record in self.ledger.attached()}
        for key, address in self.answered.items():
            assert held[key] == address

    @invariant()
    def nothing_is_lost(self) -> None:
        usage = self.ledger.usage()
        assert usage.used + usage.free + usage.quarantined == 7


Crashes.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCrashes = Crashes.TestCase
