"""The layout of the fleet: which part of the fleet CIDR has which use (docs/design.md section 3).

The layout is a function of the fleet CIDR alone, so the hub and the members never disagree about it.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Iterator

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

CLUSTER_BLOCK_PREFIX = {4: 22, 6: 56}
NODE_BLOCK_PREFIX = {4: 26, 6: 64}


class AddressRefusedError(ValueError):
    """A CIDR or address from a user or a member is invalid; the message says which field and why."""


def parse_cidr(text: str, *, field: str) -> Network:
    """Parse a network in CIDR notation without host bits.

    Raises:
        AddressRefusedError: naming ``field``, the value and what was expected.
    """
    if "%" in text:
        # A zone ("fd00::%eth0") may hold any text, and networks are written into rules and device settings.
        raise AddressRefusedError(f"{field} {text!r} is not a network in CIDR notation: it has a zone")
    try:
        network: Network = ipaddress.ip_network(text, strict=True)
    except ValueError as err:
        raise AddressRefusedError(f"{field} {text!r} is not a network in CIDR notation: {err}") from err
    return network


def parse_networks(texts: Iterable[str], *, field: str) -> tuple[Network, ...]:
    """Parse a list of CIDRs.

    Raises:
        AddressRefusedError: naming ``field`` and the first value that can't be used.
    """
    return tuple(parse_cidr(text, field=field) for text in texts)


@dataclasses.dataclass(frozen=True, slots=True)
class FleetLayout:
    """The fleet CIDR of one address family, and its parts."""

    fleet: Network

    @property
    def vips(self) -> Network:
        """Virtual addresses of services: the first 1/16, at most a /16 (IPv6: the first /112)."""
        prefix = 112 if self.fleet.version == 6 else max(16, self.fleet.prefixlen + 4)
        candidates: Iterator[Network] = self.fleet.subnets(new_prefix=prefix)
        return next(candidates)

    def cluster_blocks(self, prefix: int | None = None) -> Iterator[Network]:
        """Iterate over the blocks that a cluster may get, in order, without the range of virtual addresses."""
        length = CLUSTER_BLOCK_PREFIX[self.fleet.version] if prefix is None else prefix
        vips = self.vips
        return (block for block in self.fleet.subnets(new_prefix=length) if not block.overlaps(vips))


def parse_fleet_cidr(text: str, *, field: str = "fleetCIDR") -> FleetLayout:
    """Parse the fleet CIDR and check its size: /8 to /17 for IPv4, /40 to /48 for IPv6.

    Raises:
        AddressRefusedError: it is malformed, too small, too large or not for private use.
    """
    network = parse_cidr(text, field=field)
    low, high = (8, 17) if network.version == 4 else (40, 48)
    if not low <= network.prefixlen <= high:
        raise AddressRefusedError(f"{field} {text!r} has prefix length {network.prefixlen}: expected /{low} to /{high}")
    shared = ipaddress.ip_network("100.64.0.0/10")
    private = network.is_private or (network.version == 4 and network.subnet_of(shared))  # type: ignore[arg-type]
    if not private or network.is_loopback or network.is_link_local:
        raise AddressRefusedError(f"{field} {text!r} is not for private use: expected part of RFC 1918, 6598 or 4193")
    return FleetLayout(network)


def node_blocks(cluster_blocks: Iterable[Network]) -> Iterator[Network]:
    """Iterate over the blocks that a cluster's nodes may get, in order."""
    for block in cluster_blocks:
        yield from block.subnets(new_prefix=NODE_BLOCK_PREFIX[block.version])


def node_address(block: Network) -> Address:
    """Return the node's own fleet address: the first of its first block."""
    return block.network_address


def overlaps(networks: Iterable[Network], other: Network) -> list[Network]:
    """Return those of ``networks`` that share addresses with ``other``."""
    return [network for network in networks if network.version == other.version and network.overlaps(other)]


def claim_name(network: Network) -> str:
    """Name the Claim of a block: an object name holds no ``/`` and no ``:``."""
    text = str(network.network_address).replace(":", "-").strip("-")
    return f"{text}-{network.prefixlen}"
