from __future__ import annotations

from cnf.netlink import links


def test_notices_name_the_links_that_came_went_or_changed() -> None:
    made, gone = links.create("fleet0", "bridge", mtu=1360).encode(1), links.delete("eth1").encode(2)
    other = links.set_mtu(7, 1300).encode(3)
    assert links.changed_names(made + other + gone) == ["fleet0", "eth1"]


def test_a_datagram_that_is_cut_short_names_nothing() -> None:
    assert links.changed_names(links.create("fleet0", "bridge", mtu=1360).encode(1)[:20]) == []
