"""Names, MACs and tags of an attachment."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from cnf.attach import identity

_IDS = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,80}", fullmatch=True)
_ADDRESSES = st.lists(st.ip_addresses(), min_size=1, max_size=2)


@given(_IDS, _ADDRESSES, st.sampled_from(["", "0b7e6b1e-6a43-4d1c-9a0e-6f0f6f8a2b11"]))
def test_a_tag_tells_all_it_was_made_of(container: str, addresses: list[ipaddress.IPv4Address], uid: str) -> None:
    text = identity.alias(container, "net1", addresses, uid)
    assert identity.parse_alias(text) == (container, "net1", tuple(addresses), uid)
    assert identity.is_ours(text)
    assert identity.is_tag_of(text, container, "net1")
    assert not identity.is_tag_of(text, container, "net2")


@given(st.text(max_size=300))
def test_a_tag_always_fits_the_kernel(container: str) -> None:
    address = ipaddress.ip_address("10.112.4.1")
    assert len(identity.alias(container, "net1", [address], "uid")) <= 255


@given(_IDS)
def test_names_fit_and_macs_are_local_hosts(container: str) -> None:
    assert len(identity.veth_name(container, "net1")) == 13
    for mac in (identity.pod_mac(container, "net1"), identity.gateway_mac(container, "net1")):
        assert int(mac[:2], 16) & 3 == 2
    assert identity.pod_mac(container, "net1") != identity.gateway_mac(container, "net1")


def test_foreign_tags_are_nobodys() -> None:
    assert identity.parse_alias("") is None
    assert identity.parse_alias("fleet:c:net1") is None
    assert identity.parse_alias("fleet:c:net1 10.0.0.999") is None
    assert not identity.is_ours("uplink to rack 7")
