"""The names of a service of the clusterset and their records (KEP-1645: requirements 30 to 41 in tests/README.md).

Records are a pure function of the mirrored FleetService, the imported EndpointSlices and who is reachable. Virtual
addresses come from the FleetService alone, which the hub verified.

Names here are relative to the zone: ``web.shop.svc`` is served under every zone of ``names.ZONES``.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

from fleetboard.model import core, fleet, names, trust
from fleetboard.model.addresses import Address
from fleetboard.model.keys import ServiceKey
from fleetboard.model.reach import Reach

SERVICES = "svc"
"""The name above all services."""
TTL_S = 5
VERSION_NAME = "dns-version"
VERSION = "1.0.0"
VERSION_TTL_S = 28800
ADDRESSES_MAX = {4: 4000, 6: 2300}
"""Number of A and of AAAA records, 16 and 28 bytes each, that one message holds."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# "_" and the port's name share one label of 63.
_PORT_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?")
_PROTOCOLS = ("TCP", "UDP", "SCTP")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class SrvTarget:
    """One SRV record: ``host`` is relative to the zone."""

    host: str
    port: int


@dataclasses.dataclass(frozen=True, slots=True)
class Records:
    """The records of one name."""

    addresses: tuple[Address, ...] = ()
    targets: tuple[SrvTarget, ...] = ()

    def of_version(self, version: int) -> tuple[Address, ...]:
        """Return the addresses of one family."""
        return tuple(address for address in self.addresses if address.version == version)


@dataclasses.dataclass(frozen=True, slots=True)
class _ReadyEndpoint:
    """A ready endpoint, under its host name relative to the zone."""

    host: str
    cluster: str
    addresses: tuple[Address, ...]
    ports: tuple[core.EndpointPort, ...]


def service_records(
    key: ServiceKey, service: fleet.FleetService, slices: Iterable[core.EndpointSlice], reach: Reach
) -> dict[str, Records]:
    """Return every name of the service that has records; the names between them exist without records."""
    if not _LABEL.fullmatch(key.name) or not _LABEL.fullmatch(key.namespace):
        return {}
    if service.spec.type == "Headless":
        return _headless(service_domain(key), _reachable(_ready_endpoints(service_domain(key), slices), reach))
    return _clusterset_ip(service_domain(key), service.spec)


def _clusterset_ip(domain: str, spec: fleet.FleetServiceSpec) -> dict[str, Records]:
    vips = tuple(address for address in map(trust.parse_unicast, spec.vips) if address is not None)
    targets = {SrvTarget(domain, port.port) for port in spec.ports if trust.is_port(port.port)}
    records = {domain: Records(addresses=vips, targets=tuple(sorted(targets)))}
    for port in spec.ports:
        name = _port_domain(port.name, port.protocol, domain)
        if name and trust.is_port(port.port):
            records[name] = Records(targets=(SrvTarget(domain, port.port),))
    return records


def _headless(domain: str, endpoints: list[_ReadyEndpoint]) -> dict[str, Records]:
    if not endpoints:
        return {}
    hosts: dict[str, set[Address]] = {}
    targets: dict[str, set[SrvTarget]] = {}
    for endpoint in endpoints:
        hosts.setdefault(endpoint.host, set()).update(endpoint.addresses)
        for port in endpoint.ports:
            if port.port is None or not trust.is_port(port.port):
                continue
            target = SrvTarget(endpoint.host, port.port)
            targets.setdefault(domain, set()).add(target)
            name = _port_domain(port.name, port.protocol, domain)
            if name:
                targets.setdefault(name, set()).add(target)
    hosts[domain] = _addresses_that_fit(hosts)
    return {
        name: Records(
            addresses=tuple(sorted(hosts.get(name, ()), key=_address_order)),
            targets=tuple(sorted(targets.get(name, ()))),
        )
        for name in hosts.keys() | targets.keys()
    }


def _addresses_that_fit(hosts: Mapping[str, set[Address]]) -> set[Address]:
    """Return the addresses of the first hosts, by name, whose A records and AAAA records each fit one answer."""
    chosen: set[Address] = set()
    counts: collections.Counter[int] = collections.Counter()
    for host in sorted(hosts):
        counts.update(address.version for address in hosts[host])
        if any(counts[version] > most for version, most in ADDRESSES_MAX.items()):
            break
        chosen |= hosts[host]
    return chosen


def _reachable(endpoints: Iterable[_ReadyEndpoint], reach: Reach) -> list[_ReadyEndpoint]:
    """Leave out the endpoints of clusters that names must not lead to now."""
    every = list(endpoints)
    clusters = reach.for_names({endpoint.cluster for endpoint in every})
    return [endpoint for endpoint in every if endpoint.cluster in clusters]


def _ready_endpoints(domain: str, slices: Iterable[core.EndpointSlice]) -> Iterator[_ReadyEndpoint]:
    for item in slices:
        cluster = item.metadata.labels.get(names.LABEL_SOURCE_CLUSTER, "")
        if not _LABEL.fullmatch(cluster):
            continue
        ports = tuple(item.ports or ())
        for endpoint in item.endpoints or ():
            usable = tuple(a for a in map(trust.parse_unicast, endpoint.addresses) if a is not None)
            if not usable or not endpoint.ready:
                continue
            yield _ReadyEndpoint(
                f"{_host_label(endpoint.hostname, usable[0])}.{cluster}.{domain}", cluster, usable, ports
            )


def _host_label(hostname: str | None, address: Address) -> str:
    """Return the exporter's host name, else one made of the address (never targetRef's name: its pod is elsewhere)."""
    if hostname and _LABEL.fullmatch(hostname):
        return hostname
    return address.exploded.replace(".", "-").replace(":", "-")


def _port_domain(port_name: str, protocol: str, domain: str) -> str:
    """Return the SRV name of a port; empty for an unnamed port and for a name too long for a label."""
    if not _PORT_LABEL.fullmatch(port_name.lower()) or protocol not in _PROTOCOLS:
        return ""
    return f"_{port_name.lower()}._{protocol.lower()}.{domain}"


def _address_order(address: Address) -> tuple[int, int]:
    return address.version, int(address)


def domain_of(namespace: str) -> str:
    """Return the name above all services of a namespace."""
    return f"{namespace}.{SERVICES}"


def service_domain(key: ServiceKey) -> str:
    """Return the name of a service."""
    return f"{key.name}.{domain_of(key.namespace)}"


def names_of(key: ServiceKey, records: Mapping[str, Records]) -> set[str]:
    """Return the names that exist because of a service's records: its own and those below.

    A name above one with records exists too: it answers NODATA and not NXDOMAIN (RFC 8020).
    """
    found, domain = set(), service_domain(key)
    for name in records:
        above = name
        while above not in found:
            found.add(above)
            above = above if above == domain else above.partition(".")[2]
    return found
