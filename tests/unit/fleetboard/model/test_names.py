"""A cluster's id is its name: one DNS label, which is also a label's value and part of object names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetboard.model import membership, names


@pytest.mark.parametrize("name", ["Bad_Name", "hub", "a" * 41, "-c3", "c3-", "c3.example", "", "c\n", "é"])
def test_mcs29_a_name_that_is_no_label_of_at_most_40_characters_is_refused(name: str) -> None:
    with pytest.raises(names.NameRefusedError, match="cluster name"):
        names.parse_cluster_name(name)


@given(st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True).filter(lambda name: name != "hub"))
def test_mcs29_every_other_label_is_an_id_that_its_namespace_gives_back(name: str) -> None:
    assert names.parse_cluster_name(name) == name
    space = names.member_namespace("default", name)
    assert re.fullmatch(r"[a-z0-9][-a-z0-9]{0,62}", space)
    assert membership.cluster_of("default", space) == name
