"""The messages of the latency probe: ports of a Service, which take the path that it measures.

Pure. Invariant: a number travels as a port of the cluster's own probe Service and is read only from DNS. So the probe
measures what clients of an export wait for: export, merge, copy, answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fleetboard.model import fleet, names
from fleetboard.model.keys import ServiceKey

PREFIX = "fleet-probe-"
NUMBERS = (1024, 65535)
ECHOES = 16
"""How many echoes are kept: one is read within a second, and few clusters ask at once."""


def service_name(cluster: str) -> str:
    """Name the probe Service of a cluster."""
    return f"{PREFIX}{cluster}"


def cluster_of(key: ServiceKey, *, namespace: str) -> str | None:
    """Return the cluster whose probe Service this is; None for other Services."""
    is_probe = key.namespace == namespace and key.name.startswith(PREFIX)
    return key.name.removeprefix(PREFIX) if is_probe else None


def question_domain(asker: str, asked: str, *, namespace: str) -> str:
    """Name the SRV record with the number that ``asker`` last sent to ``asked``."""
    return f"_ping-{asked}._tcp.{service_name(asker)}.{namespace}.svc.{names.ZONES[0]}"


def echo_domain(asker: str, asked: str, *, namespace: str) -> str:
    """Name the SRV record with the number that ``asked`` last received from ``asker``."""
    return f"_pong-{asker}._udp.{service_name(asked)}.{namespace}.svc.{names.ZONES[0]}"


def asked_number(spec: fleet.FleetServiceSpec, own: str) -> int | None:
    """Return the number that the cluster of this probe Service asks ``own`` to echo, if any."""
    return next((port.port for port in spec.ports if (port.name, port.protocol) == (f"ping-{own}", "TCP")), None)


def next_number(number: int) -> int:
    """Return the next number; after the last comes the first."""
    first, last = NUMBERS
    return number + 1 if number < last else first


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeService:
    """The content of this cluster's probe Service: one question at a time, and the last echoes, oldest first."""

    asked: str = ""
    number: int = 0
    echoes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def ask(self, cluster: str, number: int) -> ProbeService:
        """Ask ``cluster`` to echo ``number``."""
        return dataclasses.replace(self, asked=cluster, number=number)

    def echo(self, cluster: str, number: int) -> ProbeService:
        """Echo the number of ``cluster``; drop an equal number, since a Service can't have a port twice."""
        kept = {name: old for name, old in self.echoes.items() if name != cluster and old != number}
        newest = list(kept.items())[-(ECHOES - 1) :]
        return dataclasses.replace(self, echoes={**dict(newest), cluster: number})

    def render(self, cluster: str, *, namespace: str) -> dict[str, Any]:
        """Render the ports of the probe Service, which the chart created."""
        asked = [_port(f"ping-{self.asked}", "TCP", self.number)] if self.asked else []
        ports = [*asked, *(_port(f"pong-{name}", "UDP", number) for name, number in self.echoes.items())]
        return {"metadata": {"name": service_name(cluster), "namespace": namespace}, "spec": {"ports": ports}}


def _port(name: str, protocol: str, number: int) -> dict[str, Any]:
    return {"name": name, "protocol": protocol, "port": number}
