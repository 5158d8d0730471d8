"""Who exported a service first, through withdrawal and return."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st

from fleetboard.model import core, fleet, meta
from syncer.hub import ledger

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def at(hours: float) -> datetime.datetime:
    return START + datetime.timedelta(hours=hours)


def test_r14_an_export_is_as_old_as_the_hub_says() -> None:
    updated = ledger.update(ledger.Ledger({}, ()), {"c1": "2026-01-01T00:00:00Z"}, now=at(5))
    assert updated == ledger.Ledger({"c1": "2026-01-01T00:00:00Z"}, ())


def test_a_recreated_export_keeps_its_age() -> None:
    known = ledger.Ledger({"c1": "2026-01-01T00:00:00Z"}, ())
    gone = ledger.update(known, {}, now=at(1))
    back = ledger.update(gone, {"c1": "2026-01-01T10:00:00Z"}, now=at(10))
    assert back == ledger.Ledger({"c1": "2026-01-01T00:00:00Z"}, ())


def test_an_export_replaced_in_place_keeps_its_age() -> None:
    known = ledger.Ledger({"c1": "2026-01-01T00:00:00Z"}, ())
    assert ledger.update(known, {"c1": "2026-01-01T03:00:00Z"}, now=at(3)).live == known.live


def test_after_a_day_an_export_is_forgotten() -> None:
    gone = ledger.update(ledger.Ledger({"c1": "2026-01-01T00:00:00Z"}, ()), {}, now=at(1))
    assert ledger.update(gone, {}, now=at(24.9)).withdrawn == gone.withdrawn
    assert ledger.update(gone, {}, now=at(25)) == ledger.Ledger({}, ())
    assert ledger.update(gone, {"c1": "2026-01-02T01:00:00Z"}, now=at(25)).live == {"c1": "2026-01-02T01:00:00Z"}


_clusters = st.sampled_from(["c1", "c2", "c3"])


@given(st.lists(st.frozensets(_clusters), max_size=12))
def test_no_export_grows_younger_within_a_day(rounds: list[frozenset[str]]) -> None:
    known = ledger.Ledger({}, ())
    first: dict[str, str] = {}
    for number, exporting in enumerate(rounds):
        now = at(number / 60)
        created = ledger.stamp(now)
        known = ledger.update(known, dict.fromkeys(exporting, created), now=now)
        for cluster in exporting:
            assert known.live[cluster] == first.setdefault(cluster, created)
        assert {entry.cluster for entry in known.withdrawn} == first.keys() - exporting


def test_the_ledger_survives_a_restart() -> None:
    written = ledger.update(ledger.Ledger({"c1": "2026-01-01T00:00:00Z", "c2": "x"}, ()), {"c2": "y"}, now=at(1))
    rendered = ledger.render("shop.web", written.withdrawn, clusterset="default")
    record = core.ConfigMap(data=rendered["data"])
    service = fleet.FleetService(
        metadata=meta.ObjectMeta(name="shop.web"),
        spec=fleet.FleetServiceSpec(
            namespace="shop", name="web", constituents=[fleet.Constituent(cluster="c2", first_seen="x")]
        ),
    )
    assert ledger.read(service, record) == ledger.Ledger({"c2": "x"}, written.withdrawn)


def test_a_record_that_cannot_be_read_counts_as_none() -> None:
    assert ledger.read(None, core.ConfigMap(data={"withdrawn": "[{]"})) == ledger.Ledger({}, ())
    assert ledger.read(None, core.ConfigMap(data={"withdrawn": '[{"cluster": 1}]'})) == ledger.Ledger({}, ())


def test_the_next_look_is_when_the_first_entry_expires() -> None:
    entries = [
        ledger.Withdrawn("c1", "x", ledger.stamp(at(0))),
        ledger.Withdrawn("c2", "x", ledger.stamp(at(3))),
    ]
    assert ledger.next_expiry_s(entries, now=at(4)) == 20 * 3600 + 1
    assert ledger.next_expiry_s([], now=at(4)) is None
