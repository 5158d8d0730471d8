"""Settings of a member's syncer, read once from the environment that the chart sets.

Invariant: an unset variable has its default; an invalid one ends the start with a message that names it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from fleetboard.model import names, namespaces
from fleetboard.model.addresses import Network
from fleetboard.runtime import environment

FIELD_MANAGER = "syncer"
"""The field manager of everything that this process applies, here and on the hub."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemberSettings:
    """Settings of one syncer.

    Attributes:
        namespace: Where Fleetboard runs in this cluster.
        identity: Name of this pod, for the Lease.
        observe_port: Port of /metrics, /healthz and /readyz.
        log_level: Lowest level that is logged: debug, info, warning or error.
        dns_configure: Whether to set up forwarding in CoreDNS.
        networks: The pod, service and node networks of this cluster that the user named; empty: only
            those that the API shows.
        imports: Namespaces that accept imports.
        probe_interval_s: Seconds between two latency probes, 5 to 3600, whole seconds; 0 turns the probe off.
    """

    namespace: str
    identity: str
    observe_port: int
    log_level: str
    dns_configure: bool
    networks: tuple[Network, ...]
    imports: namespaces.Namespaces
    probe_interval_s: float = 0.0


def read(environ: Mapping[str, str] = os.environ) -> MemberSettings:
    """Read the settings.

    Raises:
        SettingRefusedError: naming the variable, the value and what was expected.
    """
    nothing: tuple[Network, ...] = ()
    accepted: tuple[str, ...] = ("*",)
    refused: tuple[str, ...] = ("kube-system",)
    accepted = environment.read("IMPORT_NAMESPACES", accepted, parse=environment.words, environ=environ)
    refused = environment.read("IMPORT_NAMESPACES_REFUSED", refused, parse=environment.words, environ=environ)
    return MemberSettings(
        namespace=environment.read("NAMESPACE", names.NAMESPACE, environ=environ),
        identity=environment.read("POD_NAME", os.uname().nodename, environ=environ),
        observe_port=environment.read("OBSERVE_PORT", names.OBSERVE_PORT, parse=environment.port, environ=environ),
        log_level=environment.read("LOG_LEVEL", "info", environ=environ),
        dns_configure=environment.read("DNS_CONFIGURE", False, parse=environment.flag, environ=environ),
        networks=environment.read("NETWORK_CIDRS", nothing, parse=environment.networks, environ=environ),
        imports=namespaces.Namespaces(accepted=frozenset(accepted), refused=frozenset(refused)),
        probe_interval_s=environment.read("PROBE_INTERVAL_S", 0.0, parse=_interval, environ=environ),
    )


def _interval(text: str) -> float:
    if not text.isdecimal() or not (int(text) == 0 or 5 <= int(text) <= 3600):
        raise ValueError("expected 0 or whole seconds, 5 to 3600")
    return float(text)
