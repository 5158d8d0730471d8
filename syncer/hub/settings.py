"""The settings of syncer-hub, read from the environment once."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Mapping

from fleetboard.model import addresses, membership, names
from fleetboard.runtime import environment
from syncer.rules.clusterset_settings import ClustersetSettings

FIELD_MANAGER = "syncer-hub"
"""The field manager of everything that syncer-hub applies."""
MTU_RANGE = (1280, 8920)


@dataclasses.dataclass(frozen=True, slots=True)
class HubSettings:
    """Settings of one syncer-hub.

    Attributes:
        namespace: Where Fleetboard runs on the hub.
        clusterset: What every member must fit.
        identity: Name of this pod, for the Lease.
        observe_port: Port of /metrics, /healthz and /readyz.
    """

    namespace: str
    clusterset: ClustersetSettings
    identity: str
    observe_port: int


def read(environ: Mapping[str, str] = os.environ) -> HubSettings:
    """Read the settings.

    Raises:
        SettingRefusedError: naming the variable, its value and what was expected.
    """
    name = environment.read("CLUSTERSET", "default", parse=membership.parse_clusterset, environ=environ)
    layouts = environment.read("FLEET_CIDR", None, parse=parse_layouts, environ=environ)
    mtu = environment.read("MTU", 1360, parse=parse_mtu, environ=environ)
    return HubSettings(
        namespace=environment.read("NAMESPACE", names.NAMESPACE, environ=environ),
        clusterset=ClustersetSettings(name, layouts, mtu),
        identity=environment.read("POD_NAME", socket.gethostname(), environ=environ),
        observe_port=environment.read("OBSERVE_PORT", names.OBSERVE_PORT, parse=environment.port, environ=environ),
    )


def parse_layouts(text: str) -> tuple[addresses.FleetLayout, ...]:
    """Parse the fleet CIDR, or two of them: one of each family, separated by a comma."""
    layouts = tuple(addresses.parse_fleet_cidr(part, field="fleet CIDR") for part in environment.words(text))
    if not layouts or len({layout.fleet.version for layout in layouts}) < len(layouts):
        raise ValueError("expected one CIDR, or one of IPv4 and one of IPv6 separated by a comma")
    return layouts


def parse_mtu(text: str) -> int:
    """Parse the fleet's MTU."""
    low, high = MTU_RANGE
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ValueError(f"expected a number of bytes between {low} and {high}")
    return int(text)
