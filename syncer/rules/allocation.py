"""Which address or block an owner gets: the order of candidates, and what the Claims that exist say about each.

Invariant: every Claim covers exactly one unit (a virtual address, or a block of the smallest size). Two owners of
overlapping addresses would need two objects of one name, which the API server refuses. A larger block is several
adjacent units.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import ipaddress
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from fleetboard.model import addresses, fleet, times
from fleetboard.model.addresses import Network

QUARANTINE = datetime.timedelta(hours=24)

CLUSTER_BLOCK = "cluster-block"
VIP = "vip"

_HASHED_TRIES = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """What one Claim says.

    Attributes:
        owner: Who has the address, or had it before its release.
        released: How long ago it was released; None while it is allocated.
    """

    owner: str
    released: datetime.timedelta | None = None

    def free_for(self, owner: str) -> bool:
        """Return whether ``owner`` may get the address: it is released, and theirs before or out of quarantine."""
        return self.released is not None and (self.owner == owner or self.released >= QUARANTINE)


Lookup = Callable[[Network], Held | None]
"""Return what the Claim of a unit says; None without a Claim."""


def read_held(claim: fleet.Claim, *, now: datetime.datetime) -> Held:
    """Read what a Claim says."""
    return Held(claim.spec.owner, since(claim.spec.released, now=now))


def vip_candidates(vips: Network, owner: str) -> Iterator[Network]:
    """Iterate over single addresses for a service: a few by hash of its name, then all in order.

    The hash makes a name's address predictable in an empty fleet, and keeps simultaneous allocations of two hubs
    apart. The network's first address, and an IPv4 network's last one, are left out.
    """
    usable = vip_room(vips)
    for attempt in range(_HASHED_TRIES):
        digest = hashlib.sha256(f"{owner}#{attempt}".encode()).digest()
        yield _host(vips, 1 + int.from_bytes(digest[:16], "big") % usable)
    for offset in range(1, usable + 1):
        yield _host(vips, offset)


def vip_room(vips: Network) -> int:
    """Count the addresses of the range that services may get."""
    return vips.num_addresses - (2 if vips.version == 4 else 1)


def block_room(layout: addresses.FleetLayout) -> int:
    """Count the blocks of the smallest size that clusters may get."""
    units: int = 1 << (addresses.CLUSTER_BLOCK_PREFIX[layout.fleet.version] - layout.fleet.prefixlen)
    lost = layout.vips.num_addresses >> (
        layout.fleet.max_prefixlen - addresses.CLUSTER_BLOCK_PREFIX[layout.fleet.version]
    )
    return units - max(lost, 1)


def choose_vip(vips: Network, owner: str, held: Lookup, *, old: Sequence[Network] = ()) -> Iterator[tuple[Network]]:
    """Iterate over the addresses ``owner`` may try to claim, best first: its ``old`` ones, then free ones."""
    for unit in itertools.chain(_of_family(old, vips.version), vip_candidates(vips, owner)):
        if _takeable(unit, held, owner):
            yield (unit,)


def choose_block(
    layout: addresses.FleetLayout, owner: str, held: Lookup, *, units: int, old: Sequence[Network] = ()
) -> Iterator[tuple[Network, ...]]:
    """Iterate over the groups of adjacent units that ``owner`` may try to claim, best first.

    Its ``old`` units come first, one by one. Then come groups of ``units`` units (a power of two), then groups of half
    as many, and so on.
    """
    unit_prefix = addresses.CLUSTER_BLOCK_PREFIX[layout.fleet.version]
    for unit in _of_family(old, layout.fleet.version):
        if _takeable(unit, held, owner):
            yield (unit,)
    size = units
    while size:
        prefix = unit_prefix - (size.bit_length() - 1)
        for block in layout.cluster_blocks(prefix) if prefix > layout.fleet.prefixlen else ():
            group: tuple[Network, ...] = tuple(block.subnets(new_prefix=unit_prefix))
            if all(_takeable(unit, held, owner) for unit in group):
                yield group
        size //= 2


def units_of(blocks: int) -> int:
    """Return how many units ``blocks`` blocks have, each twice as large as the one before."""
    return (1 << blocks) - 1


def assemble(shown: Sequence[str], units: Iterable[Network]) -> list[Network]:
    """Return an owner's blocks: those published before, in their order, then the rest of its units, collapsed.

    The order is part of the value: the first address of the first block is the hub's own fleet address, and members
    allocate node blocks in this order. A block is dropped only when one of its units is no longer owned.
    """
    left = set(units)
    blocks: list[Network] = []
    for text in shown:
        block = ipaddress.ip_network(text)
        covered = {unit for unit in left if _within(unit, block)}
        if sum(unit.num_addresses for unit in covered) == block.num_addresses:
            blocks.append(block)
            left -= covered
    return blocks + _collapse(left)


def next_size(owned: int, *, wanted: int) -> int:
    """Return how many units an owner's next block should have: a power of two, no more than are missing."""
    return min(1 << (owned.bit_length()), 1 << ((wanted - owned).bit_length() - 1))


def since(released: str, *, now: datetime.datetime) -> datetime.timedelta | None:
    """Return how long ago a Claim was released, None while it is allocated; a time that can't be read is now."""
    return times.age(released, now=now) if released else None


def _takeable(unit: Network, held: Lookup, owner: str) -> bool:
    claim = held(unit)
    return claim is None or claim.free_for(owner)


def _host(network: Network, offset: int) -> Network:
    return ipaddress.ip_network(network.network_address + offset)


def _within(unit: Network, block: Network) -> bool:
    return unit.version == block.version and unit.subnet_of(block)  # type: ignore[arg-type]


def _collapse(units: Iterable[Network]) -> list[Network]:
    found: list[Network] = []
    for version in (4, 6):
        found.extend(ipaddress.collapse_addresses(unit for unit in units if unit.version == version))  # type: ignore[type-var]
    return found


def _of_family(units: Iterable[Network], version: int) -> list[Network]:
    return sorted((unit for unit in units if unit.version == version), key=_position)


def _position(unit: Network) -> tuple[int, int]:
    return unit.version, int(unit.network_address)
