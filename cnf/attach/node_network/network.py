"""The node's part of the fleet, as one value."""

from __future__ import annotations

import dataclasses

from fleetboard.model.addresses import Address, Network


@dataclasses.dataclass(frozen=True, slots=True)
class NodeNetwork:
    """The node's address, the blocks of its pods, and the fleet's CIDRs and MTU."""

    node_address: Address
    blocks: tuple[Network, ...]
    fleet: tuple[Network, ...]
    mtu: int
    returned: tuple[Network, ...] = ()
    """Blocks that the node allocates no more addresses from, and that the leader may take."""

    @property
    def active_blocks(self) -> tuple[Network, ...]:
        """The blocks that addresses are allocated from."""
        return tuple(block for block in self.blocks if block not in self.returned)

    def gateways(self) -> tuple[Address, ...]:
        """Return the node's address of each family: its own, and the first of the other family's first block."""
        by_version = {self.node_address.version: self.node_address}
        for block in self.blocks:
            by_version.setdefault(block.version, block.network_address)
        return tuple(by_version[version] for version in sorted(by_version))

    def gateway(self, version: int) -> Address:
        """Return the node's address of one family. Its blocks must have that family."""
        return next(address for address in self.gateways() if address.version == version)
