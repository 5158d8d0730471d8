"""Decides which addresses, ports and exports of other clusters are believed.

A slice, a virtual address or a port comes from another cluster by way of the hub. Every part that acts on it asks here:
the hub's copies, imported slices, DNS records and firewall rules.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from fleetboard.model import fleet
from fleetboard.model.addresses import Address, Network

_IPV4_LOOPBACK = 127
_IPV4_LINK_LOCAL = 0xA9FE
_IPV4_MULTICAST = 0xE0000000
_IPV6_GLOBAL = 0b001
_IPV6_UNIQUE_LOCAL = 0b1111110
_IPV6_SITE_LOCAL = 0b1111111011


def parse_endpoint(text: str, blocks: Iterable[Network]) -> Address | None:
    """Return the address when it may be an endpoint of the cluster that holds ``blocks``.

    The classes are checked although a block never holds such addresses: a hub that was misled, or taken over, must
    not make a cluster's clients talk to their own loopback or to a cloud's metadata service.
    """
    address = parse_unicast(text)
    if address is None or not is_inside(address, blocks):
        return None
    return address


def is_endpoint(text: str, blocks: Iterable[Network]) -> bool:
    """Return whether ``text`` may be an endpoint of the cluster that holds ``blocks``."""
    return parse_endpoint(text, blocks) is not None


def is_inside(address: Address, networks: Iterable[Network]) -> bool:
    """Return whether one of the networks holds the address."""
    return any(address.version == network.version and address in network for network in networks)


def parse_unicast(text: str) -> Address | None:
    """Return the address unless it is malformed or one that no service may point clients at.

    Refused are loopback, link-local, multicast, unspecified and reserved addresses (broadcast among them), IPv4 mapped
    into IPv6, and a zone index, which may hold any text.
    """
    is_v6 = ":" in text
    try:
        packed = socket.inet_pton(socket.AF_INET6 if is_v6 else socket.AF_INET, text)
    except (OSError, ValueError):
        return None
    number = int.from_bytes(packed)
    if is_v6:
        return ipaddress.IPv6Address(number) if _is_unicast6(number) else None
    return ipaddress.IPv4Address(number) if _is_unicast4(number) else None


# A firewall's plan asks this of every endpoint: ``ipaddress`` takes five times as long to parse a text and to tell its
# class. A test compares both.
def _is_unicast4(number: int) -> bool:
    return (
        0 < number < _IPV4_MULTICAST  # reserved addresses are above multicast
        and number >> 24 != _IPV4_LOOPBACK
        and number >> 16 != _IPV4_LINK_LOCAL
    )


def _is_unicast6(number: int) -> bool:
    return number >> 125 == _IPV6_GLOBAL or number >> 121 == _IPV6_UNIQUE_LOCAL or number >> 118 == _IPV6_SITE_LOCAL


def is_port(number: int | None) -> bool:
    """Return whether a transport protocol has that port: the API server takes any number in slices."""
    return number is not None and 0 < number < 65536


def exporters(spec: fleet.FleetServiceSpec, port: fleet.ServicePort) -> frozenset[str]:
    """Return the clusters that export exactly this port (KEP-1645: name, protocol and number)."""
    return frozenset(
        constituent.cluster
        for constituent in spec.constituents
        if any(own.identity == port.identity for own in constituent.ports)
    )
