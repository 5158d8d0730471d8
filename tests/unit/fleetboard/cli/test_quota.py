"""A member may write from the moment its token is printed, also on a hub that has just got our kinds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from fake_api import FakeApi

from fleetboard.cli import quota
from fleetboard.model import membership

MEMBER = membership.Member("default", "c1")
ALL = membership.OBJECT_QUOTA


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as made:
        yield made


def count(api: FakeApi, kinds: dict[str, str]) -> None:
    """Do what the quota controller does."""
    api.put(
        "resourcequotas",
        membership.QUOTA,
        MEMBER.namespace,
        spec={"hard": ALL},
        status={"hard": ALL, "used": dict.fromkeys(kinds, "0")},
    )


def test_a_quota_that_is_counted_is_left_alone(api: FakeApi) -> None:
    count(api, ALL)
    uid = api.objects["resourcequotas", MEMBER.namespace, membership.QUOTA]["metadata"]["uid"]
    assert quota.ensure_counted(api.client(), MEMBER)
    assert api.objects["resourcequotas", MEMBER.namespace, membership.QUOTA]["metadata"]["uid"] == uid


def test_a_quota_that_counts_only_some_kinds_is_waited_for_and_made_again(api: FakeApi) -> None:
    some = dict(itertools.islice(ALL.items(), 1))
    seconds = itertools.count()
    made: set[str] = set()

    def pause(_s: float) -> None:
        key = ("resourcequotas", MEMBER.namespace, membership.QUOTA)
        made.add(api.objects[key]["metadata"]["uid"])
        # Only one that is made after the controller knows our kinds is counted whole.
        count(api, ALL if len(made) > 1 else some)

    assert quota.ensure_counted(api.client(), MEMBER, clock=lambda: next(seconds), pause=pause)
    assert len(made) == 2


def test_it_is_not_waited_for_without_end(api: FakeApi) -> None:
    seconds = itertools.count()
    assert not quota.ensure_counted(api.client(), MEMBER, clock=lambda: next(seconds), pause=lambda _s: None)
