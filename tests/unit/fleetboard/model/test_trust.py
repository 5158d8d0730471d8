"""What of another cluster's word is believed."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fleetboard.model import addresses, fleet, trust

EVERYTHING = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
BLOCKS = [ipaddress.ip_network("10.114.0.0/22"), ipaddress.ip_network("fd00:2::/56")]


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "127.255.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
        "::",
        "::1",
        "::ffff:10.114.0.2",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:2::1%eth0",
        "ff02::1",
        "4000::1",
        "10.114.0.02",
        "10.114.0",
        "web.shop",
        "",
    ],
)
def test_no_cluster_has_such_an_endpoint_whatever_its_blocks_are(text: str) -> None:
    assert trust.parse_endpoint(text, EVERYTHING) is None
    assert trust.parse_unicast(text) is None


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("10.114.0.2", True),
        ("10.114.3.255", True),
        ("10.114.4.0", False),
        ("10.113.255.255", False),
        ("fd00:2::5", True),
        ("fd00:3::5", False),
    ],
)
def test_a_cluster_has_endpoints_in_its_own_blocks_alone(text: str, inside: bool) -> None:
    assert trust.parse_endpoint(text, BLOCKS) == (ipaddress.ip_address(text) if inside else None)
    assert trust.is_endpoint(text, BLOCKS) is inside
    assert not trust.is_endpoint(text, [])


def parse_with_library(text: str) -> addresses.Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def is_unicast(address: addresses.Address) -> bool:
    """Decide by the classes of the standard library."""
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return False
    classes = (address.is_loopback, address.is_link_local, address.is_multicast, address.is_unspecified)
    mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    return not any(classes) and not address.is_reserved and not mapped


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
@example(ipaddress.ip_address("0.0.0.1"))
@example(ipaddress.ip_address("126.255.255.255"))
@example(ipaddress.ip_address("128.0.0.0"))
@example(ipaddress.ip_address("169.253.255.255"))
@example(ipaddress.ip_address("169.255.0.0"))
@example(ipaddress.ip_address("223.255.255.255"))
@example(ipaddress.ip_address("2000::"))
@example(ipaddress.ip_address("3fff:ffff::"))
@example(ipaddress.ip_address("fbff::"))
@example(ipaddress.ip_address("fc00::"))
@example(ipaddress.ip_address("fdff:ffff::"))
@example(ipaddress.ip_address("fe00::"))
@example(ipaddress.ip_address("fe7f::"))
@example(ipaddress.ip_address("febf::"))
@example(ipaddress.ip_address("fec0::"))
@example(ipaddress.ip_address("feff::"))
@example(ipaddress.ip_address("ff00::"))
def test_the_classes_are_those_of_the_standard_library(address: addresses.Address) -> None:
    assert (trust.parse_unicast(str(address)) is not None) is is_unicast(address)


@given(st.text("0123456789abcdfx:.%/ -\u0660\x00\ud800", max_size=20) | st.from_regex(r"[0-9.]{7,15}|[0-9a-f:.]{2,39}"))
@example("10.1.2.03")
@example("010.1.2.3")
@example("10.1.2.3 ")
@example("1:2:3:4:5:6:7::")
@example("1:2:3:4:5:6:7:8:9")
@example("2001:db8::00001")
@example("2001:db8::10.0.0.1")
@example("2001:db8::10.0.0.01")
def test_texts_are_parsed_as_by_the_standard_library(text: str) -> None:
    expected = parse_with_library(text)
    assert trust.parse_unicast(text) == (expected if expected is not None and is_unicast(expected) else None)


@pytest.mark.parametrize(
    ("number", "valid"), [(None, False), (-1, False), (0, False), (1, True), (65535, True), (65536, False)]
)
def test_a_port_is_between_1_and_65535(number: int | None, valid: bool) -> None:
    assert trust.is_port(number) is valid


HTTP = fleet.ServicePort(name="http", port=80)


@pytest.mark.parametrize(
    ("port", "same"),
    [
        (HTTP, True),
        (fleet.ServicePort(name="http", port=80, app_protocol="h2c"), True),
        (fleet.ServicePort(name="http", port=8080), False),
        (fleet.ServicePort(name="web", port=80), False),
        (fleet.ServicePort(name="http", port=80, protocol="UDP"), False),
    ],
)
def test_exporters_expose_the_port_by_name_protocol_and_number(port: fleet.ServicePort, same: bool) -> None:
    other = fleet.ServicePort(name="metrics", port=9090)
    constituents = [
        fleet.Constituent(cluster="c1", ports=[other, port]),
        fleet.Constituent(cluster="c2", ports=[other]),
        fleet.Constituent(cluster="c3"),
    ]
    spec = fleet.FleetServiceSpec(namespace="shop", name="web", constituents=constituents)
    assert trust.exporters(spec, HTTP) == (frozenset({"c1"}) if same else frozenset())
