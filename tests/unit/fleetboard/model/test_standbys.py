"""Every part chooses a member's standbys by one rule."""

from __future__ import annotations

from fleetboard.model.standbys import choose_standbys


def test_standbys_are_the_first_two_other_nodes_by_name() -> None:
    assert choose_standbys("b", ["d", "c", "b", "a"]) == ("a", "c")
    assert choose_standbys("a", ["a"]) == ()
