"""The node's part of the fleet, as one value."""

from __future__ import annotations

import dataclasses

from fleetboard.model.addresses import Address, Network


@dataclasses.dataclass(frozen=True, slots=True)
class NodeNetwork:
    """The node's part of the fleet: its address, the blocks of its pods, the fleet's CIDRs and MTU.

    ``returned`` are blocks that the node gives no more addresses of and that the leader may take.
    """

    node_address: Address
    blocks: tuple[Network, ...]
    fleet: tuple[Network, ...]
    mtu: int
    returned: tuple[Network, ...] = ()

    @property
    def active_blocks(self) -> tuple[Network, ...]:
        """The blocks that addresses are given of."""
        return tuple(block for block in self.blocks if block not in self.returned)

    def gateways(self) -> tuple[Address, ...]:
        """Return the node's address of each family: its own, and the first of the first block of the other."""
        found = {self.node_address.version: self.node_address}
        for block in self.blocks:
            found.setdefault(block.version, block.network_address)
        return tuple(found[version] for version in sorted(found))

    def gateway(self, version: int) -> Address:
        """Return the node's address of one family; its blocks have that family."""
        return next(address for address in self.gateways() if address.version == version)
