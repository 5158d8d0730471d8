"""What is reported of the journal's records."""

from __future__ import annotations

from cnf.attach import records


def make_record(container: str, *, pod: str, at: float, address: str = "10.113.4.2") -> records.Record:
    return records.Record(
        container_id=container,
        interface="net1",
        addresses=[address],
        mac="02:00:00:00:00:01",
        cookie=1,
        boot="b",
        pod_uid=pod,
        reserved_at=at,
    )


def test_of_a_pod_with_a_new_sandbox_only_the_new_one_counts() -> None:
    old, new = make_record("old", pod="p", at=1), make_record("new", pod="p", at=2, address="10.113.4.9")
    other = make_record("other", pod="q", at=0)
    assert set(map(repr, records.newest([new, old, other]))) == {repr(new), repr(other)}


def test_records_without_a_pod_all_count() -> None:
    assert len(records.newest([make_record("a", pod="", at=1), make_record("b", pod="", at=2)])) == 2
