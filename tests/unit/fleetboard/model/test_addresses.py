"""Networks and addresses as members and the hub write them."""

from __future__ import annotations

import ipaddress

import pytest

from fleetboard.model import addresses


def test_a_list_of_networks_is_parsed() -> None:
    expected = (ipaddress.ip_network("10.113.0.0/22"), ipaddress.ip_network("fd00::/56"))
    assert addresses.parse_networks(["10.113.0.0/22", "fd00::/56"], field="clusterCIDRs") == expected
    assert addresses.parse_networks([], field="clusterCIDRs") == ()


@pytest.mark.parametrize("text", ["10.113.0.1/22", "10.113.0.0/33", "fd00::%eth0/64", "web", ""])
def test_one_that_is_no_network_refuses_the_list_and_is_named(text: str) -> None:
    with pytest.raises(addresses.AddressRefusedError, match="clusterCIDRs") as refused:
        addresses.parse_networks(["10.113.0.0/22", text], field="clusterCIDRs")
    assert repr(text) in str(refused.value)
