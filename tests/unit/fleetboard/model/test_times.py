"""Times as the API writes and reads them."""

from __future__ import annotations

import datetime

import pytest

from fleetboard.model import times

NOON = datetime.datetime(2026, 1, 2, 12, 0, 0, tzinfo=datetime.UTC)
EAST = datetime.timezone(datetime.timedelta(hours=2))


@pytest.mark.parametrize(
    ("moment", "seconds", "micro"),
    [
        (NOON, "2026-01-02T12:00:00Z", "2026-01-02T12:00:00.000000Z"),
        (NOON.replace(microsecond=999_999), "2026-01-02T12:00:00Z", "2026-01-02T12:00:00.999999Z"),
        (NOON.astimezone(EAST), "2026-01-02T12:00:00Z", "2026-01-02T12:00:00.000000Z"),
    ],
)
def test_times_are_rendered_in_utc(moment: datetime.datetime, seconds: str, micro: str) -> None:
    assert (times.render(moment), times.render_micro(moment)) == (seconds, micro)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-02T12:00:00Z", NOON),
        ("2026-01-02T12:00:00.5Z", NOON.replace(microsecond=500_000)),
        ("2026-01-02T14:00:00+02:00", NOON),
        ("2026-01-02T12:00:00", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_times_are_parsed(text: str, moment: datetime.datetime | None) -> None:
    assert times.parse(text) == moment


@pytest.mark.parametrize(
    ("text", "hours"),
    [("2026-01-02T11:00:00Z", 1), ("2026-01-02T13:00:00Z", -1), ("yesterday", 0), ("2026-01-01T00:00:00", 0), ("", 0)],
)
def test_a_time_that_cannot_be_read_was_just_now(text: str, hours: int) -> None:
    assert times.age(text, now=NOON) == datetime.timedelta(hours=hours)


def test_now_reads_back() -> None:
    moment = times.parse(times.now())
    assert moment is not None
    assert abs(datetime.datetime.now(datetime.UTC) - moment) < datetime.timedelta(seconds=5)
