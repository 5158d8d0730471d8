"""Who exported a service first, through withdrawal and return."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st

from fleetboard.model import core, fleet, meta, times
from syncer.hub import precedence

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def at(hours: float) -> datetime.datetime:
    return START + datetime.timedelta(hours=hours)


def test_mcs14_an_export_is_as_old_as_the_hub_says() -> None:
    updated = precedence.update(precedence.Precedence({}, ()), {"c1": "2026-01-01T00:00:00Z"}, now=at(5))
    assert updated == precedence.Precedence({"c1": "2026-01-01T00:00:00Z"}, ())


def test_a_recreated_export_keeps_its_age() -> None:
    known = precedence.Precedence({"c1": "2026-01-01T00:00:00Z"}, ())
    gone = precedence.update(known, {}, now=at(1))
    back = precedence.update(gone, {"c1": "2026-01-01T10:00:00Z"}, now=at(10))
    assert back == precedence.Precedence({"c1": "2026-01-01T00:00:00Z"}, ())


def test_an_export_replaced_in_place_keeps_its_age() -> None:
    known = precedence.Precedence({"c1": "2026-01-01T00:00:00Z"}, ())
    assert precedence.update(known, {"c1": "2026-01-01T03:00:00Z"}, now=at(3)).live == known.live


def test_after_a_day_an_export_is_forgotten() -> None:
    gone = precedence.update(precedence.Precedence({"c1": "2026-01-01T00:00:00Z"}, ()), {}, now=at(1))
    assert precedence.update(gone, {}, now=at(24.9)).ended == gone.ended
    assert precedence.update(gone, {}, now=at(25)) == precedence.Precedence({}, ())
    assert precedence.update(gone, {"c1": "2026-01-02T01:00:00Z"}, now=at(25)).live == {"c1": "2026-01-02T01:00:00Z"}


_clusters = st.sampled_from(["c1", "c2", "c3"])


@given(st.lists(st.frozensets(_clusters), max_size=12))
def test_no_export_grows_younger_within_a_day(rounds: list[frozenset[str]]) -> None:
    known = precedence.Precedence({}, ())
    first: dict[str, str] = {}
    for number, exporting in enumerate(rounds):
        now = at(number / 60)
        created = times.render(now)
        known = precedence.update(known, dict.fromkeys(exporting, created), now=now)
        for cluster in exporting:
            assert known.live[cluster] == first.setdefault(cluster, created)
        assert {entry.cluster for entry in known.ended} == first.keys() - exporting


def test_the_ledger_survives_a_restart() -> None:
    written = precedence.update(
        precedence.Precedence({"c1": "2026-01-01T00:00:00Z", "c2": "x"}, ()), {"c2": "y"}, now=at(1)
    )
    rendered = precedence.render("shop.web", written.ended, clusterset="default")
    record = core.ConfigMap(data=rendered["data"])
    service = fleet.FleetService(
        metadata=meta.ObjectMeta(name="shop.web"),
        spec=fleet.FleetServiceSpec(
            namespace="shop", name="web", constituents=[fleet.Constituent(cluster="c2", first_seen="x")]
        ),
    )
    assert precedence.read(service, record) == precedence.Precedence({"c2": "x"}, written.ended)


def test_a_record_that_cannot_be_read_counts_as_none() -> None:
    assert precedence.read(None, core.ConfigMap(data={"withdrawn": "[{]"})) == precedence.Precedence({}, ())
    assert precedence.read(None, core.ConfigMap(data={"withdrawn": '[{"cluster": 1}]'})) == precedence.Precedence(
        {}, ()
    )


def test_the_next_look_is_when_the_first_entry_expires() -> None:
    entries = [
        precedence.EndedExport("c1", "x", times.render(at(0))),
        precedence.EndedExport("c2", "x", times.render(at(3))),
    ]
    assert precedence.next_expiry_s(entries, now=at(4)) == 20 * 3600 + 1
    assert precedence.next_expiry_s([], now=at(4)) is None
