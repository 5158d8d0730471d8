"""The settings of a clusterset, which every member must fit."""

from __future__ import annotations

import dataclasses

from fleetboard.model import addresses, names


@dataclasses.dataclass(frozen=True, slots=True)
class ClustersetSettings:
    """The settings of one clusterset, as its hub has them.

    Attributes:
        name: Its name.
        layouts: How the fleet CIDR of each address family is divided.
        mtu: The MTU of fleet addresses.
    """

    name: str
    layouts: tuple[addresses.FleetLayout, ...]
    mtu: int

    @property
    def networks(self) -> tuple[addresses.Network, ...]:
        """The fleet CIDRs."""
        return tuple(layout.fleet for layout in self.layouts)

    @property
    def families(self) -> tuple[str, ...]:
        """The fleet's address families, ``IPv4`` and ``IPv6``, in the order they were given."""
        return tuple(f"IPv{layout.fleet.version}" for layout in self.layouts)

    @property
    def namespace(self) -> str:
        """The clusterset's namespace."""
        return names.clusterset_namespace(self.name)
