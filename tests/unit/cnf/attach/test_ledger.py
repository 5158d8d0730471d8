"""No two pods ever hold one address, wherever the process or the machine stops."""

from __future__ import annotations

import ipaddress
import pathlib
import tempfile

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cnf.attach import errors, ipam, journal, ledger, records

BLOCK = ipaddress.ip_network("10.112.4.0/29")


def draft(number: int) -> records.Record:
    return records.Record(
        container_id=f"c{number}", interface="net1", addresses=[], mac="0a:00:00:00:00:01", cookie=number, boot="b"
    )


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def make_ledger(folder: pathlib.Path, clock: Clock) -> ledger.Ledger:
    made = ledger.Ledger(journal.Journal(folder / "journal"), clock=clock, wall=clock)
    made.load()
    made.set_blocks([BLOCK], excluded=[BLOCK.network_address])
    return made


def test_an_address_sticks_to_its_key_over_a_restart_and_a_retry(tmp_path: pathlib.Path) -> None:
    clock = Clock()
    book = make_ledger(tmp_path, clock)
    record, _ = book.reserve(draft(1))
    book.commit(record.key, index=5)
    book.close()
    again = make_ledger(tmp_path, clock)
    assert [(r.addresses, r.index) for r in again.attached()] == [(record.addresses, 5)]
    retried, _ = again.reserve(draft(1))
    assert retried.addresses == record.addresses
    other, _ = again.reserve(draft(2))
    assert other.addresses != record.addresses
    again.close()


def test_an_address_rests_over_a_restart_but_never_longer_than_it_would(tmp_path: pathlib.Path) -> None:
    clock = Clock()
    book = make_ledger(tmp_path, clock)
    record, _ = book.reserve(draft(1))
    book.release(record.key)
    book.close()
    clock.now += 20
    again = make_ledger(tmp_path, clock)
    assert again.usage() == ipam.Usage(used=0, free=6, resting=1)
    again.close()
    clock.now -= 5000
    set_back = make_ledger(tmp_path, clock)
    assert set_back.usage().resting == 1
    clock.now += ipam.REST_S
    assert set_back.usage().resting == 0
    set_back.close()


def test_a_reservation_that_cannot_be_written_takes_nothing(tmp_path: pathlib.Path) -> None:
    def fsync(file: int) -> None:
        raise OSError(30, "Read-only file system")

    clock = Clock()
    book = ledger.Ledger(journal.Journal(tmp_path / "journal", fsync=fsync), clock=clock, wall=clock)
    book.load()
    book.set_blocks([BLOCK], excluded=[BLOCK.network_address])
    with pytest.raises(errors.JournalError, match="Read-only"):
        book.reserve(draft(1))
    assert book.usage() == ipam.Usage(used=0, free=7)
    book.close()


def test_a_reservation_that_fills_the_disk_takes_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = make_ledger(tmp_path, Clock())

    def write(file: int, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "_write_all", write)
    with pytest.raises(errors.JournalError, match="No space left"):
        book.reserve(draft(1))
    assert book.usage() == ipam.Usage(used=0, free=7)
    book.close()


def test_a_release_happens_though_the_disk_is_full(tmp_path: pathlib.Path) -> None:
    failing: list[bool] = []

    def fsync(file: int) -> None:
        if failing:
            raise OSError(28, "No space left on device")

    clock = Clock()
    book = ledger.Ledger(journal.Journal(tmp_path / "journal", fsync=fsync), clock=clock, wall=clock)
    book.load()
    book.set_blocks([BLOCK], excluded=[BLOCK.network_address])
    record, mark = book.reserve(draft(1))
    book.sync(mark)
    failing.append(True)
    with pytest.raises(errors.JournalError):
        book.sync(book.commit(record.key, index=1))
    assert book.release(record.key)
    assert book.usage().used == 0
    failing.clear()
    book.reserve(draft(2))
    book.close()
    entries, damaged = journal.Journal(tmp_path / "journal").read()
    assert (set(records.fold(entries).records), damaged) == ({("c2", "net1")}, 0)


def test_no_block_is_given_back_while_the_journal_may_name_pods_in_it(tmp_path: pathlib.Path) -> None:
    full = False

    def fsync(_file: int) -> None:
        if full:
            raise OSError(28, "No space left on device")

    clock = Clock()
    book = ledger.Ledger(journal.Journal(tmp_path / "journal", fsync=fsync), clock=clock, wall=clock)
    book.load()
    book.set_blocks([BLOCK], excluded=[])
    record, mark = book.reserve(draft(1))
    book.sync(mark)
    full = True
    with pytest.raises(errors.JournalError):
        book.sync(book.commit(record.key, index=5))
    book.release(record.key, rest=False)
    assert book.idle_blocks() == (BLOCK,)
    assert not book.withdraw([BLOCK], excluded=[])
    full = False
    assert book.withdraw([BLOCK], excluded=[])
    book.close()


def test_a_journal_that_grows_is_shortened(tmp_path: pathlib.Path) -> None:
    clock = Clock()
    book = make_ledger(tmp_path, clock)
    ledger_limit = ledger._COMPACT_BYTES
    try:
        ledger._COMPACT_BYTES = 4000
        for number in range(200):
            record, _ = book.reserve(draft(number))
            book.commit(record.key, index=1)
            book.release(record.key, rest=False)
    finally:
        ledger._COMPACT_BYTES = ledger_limit
    book.close()
    assert (tmp_path / "journal").stat().st_size < 6000


def test_a_retry_that_asks_for_another_address_gets_that_one_or_none(tmp_path: pathlib.Path) -> None:
    book = make_ledger(tmp_path, Clock())
    first, _ = book.reserve(draft(1))
    wish = ipaddress.ip_address("10.112.4.6")
    retried, _ = book.reserve(draft(1), requested=[wish])
    assert (first.addresses, retried.addresses) == (["10.112.4.1"], [str(wish)])
    assert book.usage() == ipam.Usage(used=1, free=5, resting=1)
    book.close()


def test_an_address_of_a_block_that_is_no_longer_the_nodes_is_not_kept_for_a_retry(tmp_path: pathlib.Path) -> None:
    book = make_ledger(tmp_path, Clock())
    book.reserve(draft(1))
    other = ipaddress.ip_network("10.112.9.0/29")
    book.set_blocks([other], excluded=[other.network_address])
    retried, _ = book.reserve(draft(1))
    assert retried.addresses == ["10.112.9.1"]
    book.close()


def test_a_journal_copied_from_another_node_says_nothing(tmp_path: pathlib.Path) -> None:
    clock = Clock()

    def open_as(node: str) -> ledger.Ledger:
        made = ledger.Ledger(journal.Journal(tmp_path / "journal"), node=node, clock=clock, wall=clock)
        made.load()
        made.set_blocks([BLOCK], excluded=[BLOCK.network_address])
        return made

    book = open_as("a")
    record, _ = book.reserve(draft(1))
    book.commit(record.key, index=1)
    book.close()
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
    clock = Clock()
    book = make_ledger(tmp_path, clock)
    record, _ = book.reserve(draft(1))
    book.close()
    named = ledger.Ledger(journal.Journal(tmp_path / "journal"), node="a", clock=clock, wall=clock)
    named.load()
    assert named.find(record.key) == record
    named.close()


def test_the_release_that_was_damaged_does_not_free_the_address_under_its_next_holder(tmp_path: pathlib.Path) -> None:
    clock = Clock()
    book = make_ledger(tmp_path, clock)
    book.set_blocks([ipaddress.ip_network("10.112.4.0/31")], excluded=[BLOCK.network_address])
    old, _ = book.reserve(draft(1))
    book.commit(old.key, index=1)
    book.release(old.key, rest=False)
    new, _ = book.reserve(draft(2))
    book.commit(new.key, index=1)
    book.close()
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
        folder, clock = pathlib.Path(name), Clock()
        book = make_ledger(folder, clock)
        moments = [(0, *_read(book))]
        for number, action in history:
            record = draft(number)
            if action == "reserve" and book.find(record.key) is None:
                book.reserve(record)
            elif action == "commit" and book.find(record.key) is not None:
                book.commit(record.key, index=1)
            elif action == "release":
                book.release(record.key)
            clock.now += 61
            moments.append(((folder / "journal").stat().st_size, *_read(book)))
        book.close()
        whole = (folder / "journal").read_bytes()
    for cut in range(len(whole) + 1):
        found, _ = journal.decode(whole[:cut])
        state = records.fold(found)
        # An entry is whole though its newline is missing.
        _, held, unfinished = [moment for moment in moments if moment[0] <= cut + 1][-1]
        assert ({key: record.addresses for key, record in state.records.items()}, state.open) == (held, unfinished)


def _read(book: ledger.Ledger) -> tuple[dict[records.Key, list[str]], set[records.Key]]:
    unfinished = {record.key for record in book.unfinished()}
    everything = [*book.attached(), *book.unfinished()]
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
        self.clock = Clock()
        self.book = make_ledger(self.path, self.clock)
        self.kernel: dict[records.Key, str] = {}
        self.answered: dict[records.Key, str] = {}
        self.adding: records.Record | None = None
        self.wired = False
        self.deleting: records.Key | None = None
        self.count = 0

    def teardown(self) -> None:
        self.book.close()
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
            self.adding, _ = self.book.reserve(draft(self.count))
        except errors.ExhaustedError:
            assert len(self.kernel) + self.book.usage().resting >= 7

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
            self.book.release(record.key, rest=False)
        else:
            self.book.commit(record.key, index=1)
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
        self.book.release(self.deleting)
        self.deleting = None

    @rule(torn=st.integers(0, 30))
    def crash(self, torn: int) -> None:
        """The process ends; what it had begun to write may be cut."""
        self.book.close()
        if torn and self.adding is not None and not self.wired:
            # RESERVE was being written: nothing of it had an effect yet.
            content = (self.path / "journal").read_bytes()
            (self.path / "journal").write_bytes(content[:-torn])
        self.restart()

    @rule()
    def reboot(self) -> None:
        """All namespaces end with the machine."""
        self.book.close()
        self.kernel.clear()
        self.answered.clear()
        self.restart()
        for record in self.book.attached():
            self.book.release(record.key)

    def restart(self) -> None:
        """As the sweep at start: unfinished ADDs are rolled back; attached without interface, they are dead."""
        self.book = make_ledger(self.path, self.clock)
        self.adding, self.wired = None, False
        for record in self.book.unfinished():
            self.kernel.pop(record.key, None)
            self.book.release(record.key, rest=False)
        for record in self.book.attached():
            if record.key not in self.kernel:
                self.book.release(record.key)
        self.deleting = None

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def nobody_shares_an_address(self) -> None:
        assert len(set(self.kernel.values())) == len(self.kernel)

    @invariant()
    def whoever_got_an_answer_keeps_its_address(self) -> None:
        held = {record.key: record.addresses[0] for record in self.book.attached()}
        for key, address in self.answered.items():
            assert held[key] == address

    @invariant()
    def nothing_is_lost(self) -> None:
        usage = self.book.usage()
        assert usage.used + usage.free + usage.resting == 7


Crashes.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCrashes = Crashes.TestCase
