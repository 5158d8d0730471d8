"""Which names a service of the clusterset has, and what they hold (KEP-1645, reference numbers 30-41).

One invariant: records are a pure function of the mirrored FleetService, the imported EndpointSlices and what is known
of the peers. Virtual addresses come from the FleetService, which the hub verified, and from nowhere else.

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
"""The name that all services are below."""
TTL_S = 5
VERSION_NAME = "dns-version"
VERSION = "1.0.0"
VERSION_TTL_S = 28800
ADDRESSES_MAX = {4: 4000, 6: 2300}
"""Records of A and of AAAA, 16 and 28 bytes each, that one message holds."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# "_" and the port's name share one label of 63.
_PORT_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?")
_PROTOCOLS = ("TCP", "UDP", "SCTP")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Target:
    """One SRV record: ``host`` is relative to the zone."""

    host: str
    port: int


@dataclasses.dataclass(frozen=True, slots=True)
class Records:
    """What one name holds."""

    addresses: tuple[Address, ...] = ()
    targets: tuple[Target, ...] = ()

    def of_version(self, version: int) -> tuple[Address, ...]:
        """Return the addresses of one family."""
        return tuple(address for address in self.addresses if address.version == version)


@dataclasses.dataclass(frozen=True, slots=True)
class _Backend:
    """A ready endpoint, under its host name relative to the zone."""

    host: str
    cluster: str
    addresses: tuple[Address, ...]
    ports: tuple[core.EndpointPort, ...]


def service_records(
    key: ServiceKey, service: fleet.FleetService, slices: Iterable[core.EndpointSlice], reach: Reach
) -> dict[str, Records]:
    """Return every name of the service that holds records; names between them exist without any."""
    if not _LABEL.fullmatch(key.name) or not _LABEL.fullmatch(key.namespace):
        return {}
    if service.spec.type == "Headless":
        return _headless(service_domain(key), _reachable(_backends(service_domain(key), slices), reach))
    return _clusterset_ip(service_domain(key), service.spec)


def _clusterset_ip(domain: str, spec: fleet.FleetServiceSpec) -> dict[str, Records]:
    vips = tuple(address for address in map(trust.parse_unicast, spec.vips) if address is not None)
    targets = {Target(domain, port.port) for port in spec.ports if trust.is_port(port.port)}
    records = {domain: Records(addresses=vips, targets=tuple(sorted(targets)))}
    for port in spec.ports:
        name = _port_domain(port.name, port.protocol, domain)
        if name and trust.is_port(port.port):
            records[name] = Records(targets=(Target(domain, port.port),))
    return records


def _headless(domain: str, backends: list[_Backend]) -> dict[str, Records]:
    if not backends:
        return {}
    hosts: dict[str, set[Address]] = {}
    targets: dict[str, set[Target]] = {}
    for backend in backends:
        hosts.setdefault(backend.host, set()).update(backend.addresses)
        for port in backend.ports:
            if port.port is None or not trust.is_port(port.port):
                continue
            target = Target(backend.host, port.port)
            targets.setdefault(domain, set()).add(target)
            name = _port_domain(port.name, port.protocol, domain)
            if name:
                targets.setdefault(name, set()).add(target)
    hosts[domain] = _common(hosts)
    return {
        name: Records(
            addresses=tuple(sorted(hosts.get(name, ()), key=_address_order)),
            targets=tuple(sorted(targets.get(name, ()))),
        )
        for name in hosts.keys() | targets.keys()
    }


def _common(hosts: Mapping[str, set[Address]]) -> set[Address]:
    """Return the addresses of as many hosts as an answer holds, the same hosts for A as for AAAA."""
    chosen: set[Address] = set()
    counts: collections.Counter[int] = collections.Counter()
    for host in sorted(hosts):
        counts.update(address.version for address in hosts[host])
        if any(counts[version] > most for version, most in ADDRESSES_MAX.items()):
            break
        chosen |= hosts[host]
    return chosen


def _reachable(backends: Iterable[_Backend], reach: Reach) -> list[_Backend]:
    """Leave out the clusters that names don't lead to now."""
    every = list(backends)
    clusters = reach.for_names({backend.cluster for backend in every})
    return [backend for backend in every if backend.cluster in clusters]


def _backends(domain: str, slices: Iterable[core.EndpointSlice]) -> Iterator[_Backend]:
    for item in slices:
        cluster = item.metadata.labels.get(names.LABEL_SOURCE_CLUSTER, "")
        if not _LABEL.fullmatch(cluster):
            continue
        ports = tuple(item.ports or ())
        for endpoint in item.endpoints or ():
            usable = tuple(a for a in map(trust.parse_unicast, endpoint.addresses) if a is not None)
            if not usable or not endpoint.ready:
                continue
            yield _Backend(f"{_host_label(endpoint.hostname, usable[0])}.{cluster}.{domain}", cluster, usable, ports)


def _host_label(hostname: str | None, address: Address) -> str:
    """Return the exporter's host name, else one made of the address (never targetRef's: that is another cluster's)."""
    if hostname and _LABEL.fullmatch(hostname):
        return hostname
    return address.exploded.replace(".", "-").replace(":", "-")


def _port_domain(port_name: str, protocol: str, domain: str) -> str:
    """Return the SRV name of a port, empty when it has none: unnamed ports and names too long for a label."""
    if not _PORT_LABEL.fullmatch(port_name.lower()) or protocol not in _PROTOCOLS:
        return ""
    return f"_{port_name.lower()}._{protocol.lower()}.{domain}"


def _address_order(address: Address) -> tuple[int, int]:
    return address.version, int(address)


def domain_of(namespace: str) -> str:
    """Return the name that all services of a namespace are below."""
    return f"{namespace}.{SERVICES}"


def service_domain(key: ServiceKey) -> str:
    """Return the name of a service."""
    return f"{key.name}.{domain_of(key.namespace)}"


def names_of(key: ServiceKey, records: Mapping[str, Records]) -> set[str]:
    """Return the names that exist because of a service's records, from its own downwards.

    One above a name with records exists as soon as that does: it answers NODATA and not NXDOMAIN (RFC 8020).
    """
    found, domain = set(), service_domain(key)
    for name in records:
        above = name
        while above not in found:
            found.add(above)
            above = above if above == domain else above.partition(".")[2]
    return found
