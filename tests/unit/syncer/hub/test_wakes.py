"""Which work a change at the hub asks for."""

from __future__ import annotations

import pytest

from syncer.hub.wakes import WORK_BY_SOURCE, HubBus, HubSource, HubWork

TABLE = [
    (HubSource.PEER, [HubWork.MEMBER, HubWork.MEMBER_COPIES, HubWork.MEMBER_SERVICES]),
    (HubSource.REPORT, [HubWork.MEMBER]),
    (HubSource.EXPORTED_SERVICE, [HubWork.EXPORT]),
    (HubSource.SLICE, [HubWork.COPY]),
    (HubSource.FLEET_SERVICE, [HubWork.SERVICE]),
]


@pytest.mark.parametrize(("source", "expected"), TABLE)
def test_a_change_asks_for_its_work_in_order(source: HubSource, expected: list[HubWork]) -> None:
    done: list[tuple[HubWork, str]] = []
    bus = HubBus(WORK_BY_SOURCE)
    for work in HubWork:
        bus.connect(work, lambda key, work=work: done.append((work, key)))  # type: ignore[misc]
    bus.wake(source, "key")
    assert done == [(work, "key") for work in expected]


def test_every_source_and_every_work_is_in_the_table() -> None:
    assert [source for source, _ in TABLE] == list(HubSource) == list(WORK_BY_SOURCE)
    assert {work for wakes in WORK_BY_SOURCE.values() for work in wakes} == set(HubWork)
