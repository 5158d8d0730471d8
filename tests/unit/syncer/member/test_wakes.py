"""Which work a change in a member, or at the hub, asks for."""

from __future__ import annotations

import pytest

from syncer.member.wakes import WORK_BY_SOURCE, MemberBus, MemberSource, MemberWork

TABLE = [
    (
        MemberSource.EXPORT,
        [MemberWork.TIME_EXPORT, MemberWork.EXPORT, MemberWork.TIME_IMPORT, MemberWork.IMPORT],
    ),
    (MemberSource.HUB_EXPORT, [MemberWork.EXPORT]),
    (MemberSource.DELIVERY, [MemberWork.EXPORT_STATUS]),
    (
        MemberSource.HUB_SERVICE,
        [MemberWork.EXPORT_STATUS, MemberWork.TIME_IMPORT, MemberWork.IMPORT, MemberWork.PROBE],
    ),
    (MemberSource.IMPORT, [MemberWork.TIME_IMPORT, MemberWork.IMPORT]),
    (MemberSource.APPLIED, [MemberWork.IMPORT_STATUS]),
    (MemberSource.ORIGINAL, [MemberWork.TIME_MIRROR, MemberWork.MIRROR]),
    (MemberSource.OWN_PEER, [MemberWork.REPORT, MemberWork.ALL_EXPORTS]),
    (MemberSource.HUB_SYNCED, [MemberWork.ALL_EXPORTS, MemberWork.ALL_IMPORTS]),
    (MemberSource.HUB_RETURNED, [MemberWork.HUB_WATCHES]),
]


@pytest.mark.parametrize(("source", "expected"), TABLE)
def test_a_change_asks_for_its_work_in_order(source: MemberSource, expected: list[MemberWork]) -> None:
    done: list[tuple[MemberWork, str]] = []
    bus = MemberBus(WORK_BY_SOURCE)
    for work in MemberWork:
        bus.connect(work, lambda key, work=work: done.append((work, key)))  # type: ignore[misc]
    bus.wake(source, "key")
    assert done == [(work, "key") for work in expected]


def test_every_source_and_every_work_is_in_the_table() -> None:
    assert [source for source, _ in TABLE] == list(MemberSource) == list(WORK_BY_SOURCE)
    assert {work for wakes in WORK_BY_SOURCE.values() for work in wakes} == set(MemberWork)
