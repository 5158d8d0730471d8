"""Decides what one service of this cluster publishes to the clusterset.

Pure: takes the Service, its EndpointSlices, the pods' fleet addresses and the ServiceExport as values, and returns the
objects that the hub must have. Invariant: an address is published only if cnf reports in NodeAttachments that it
attached it to that pod. The pod's own annotations are never believed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from fleetboard.model import core, fleet, mcs, meta, names
from fleetboard.model.addresses import Address
from fleetboard.model.keys import ServiceKey

ENDPOINTS_PER_SLICE = 1000
"""Most endpoints that the API server accepts in one EndpointSlice."""

_EXPORTABLE = ("ClusterIP", "NodePort", "LoadBalancer")
_CLIENT_IP = "ClientIP"

Ports = tuple[core.EndpointPort, ...]
AddressesOf = Callable[[str], tuple[Address, ...]]
"""Return the fleet addresses that cnf attached to the pod of a UID; empty without any."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportInputs:
    """What this cluster has under one name.

    Attributes:
        key: Namespace and name of the Service and its ServiceExport.
        export: The ServiceExport, if it exists.
        service: The Service, if it exists.
        slices: The Service's own EndpointSlices (never imported ones).
    """

    key: ServiceKey
    export: mcs.ServiceExport | None = None
    service: core.Service | None = None
    slices: Sequence[core.EndpointSlice] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What the hub must have for one service of this cluster.

    Attributes:
        valid: Reason of the ServiceExport's Valid condition; empty when nothing asks for an export.
        exported: The ExportedService; None when nothing is published.
        slices: Its EndpointSlices, named and labelled, without a namespace.
        left_out: How many endpoints have no fleet address.
    """

    valid: str = ""
    exported: fleet.ExportedService | None = None
    slices: tuple[core.EndpointSlice, ...] = ()
    left_out: int = 0

    @property
    def endpoints(self) -> int:
        """The number of endpoints in the slices."""
        return sum(len(slice_.endpoints or ()) for slice_ in self.slices)


NOTHING = ExportPlan()


def plan(source: ExportInputs, *, cluster: str, addresses_of: AddressesOf) -> ExportPlan:
    """Decide what ``cluster`` publishes for ``source``."""
    export, service = source.export, source.service
    if export is None or export.metadata.deletion_timestamp:
        return NOTHING
    if service is None or service.metadata.deletion_timestamp:
        return ExportPlan(valid="NoService")
    if service.spec.type not in _EXPORTABLE:
        return ExportPlan(valid="InvalidServiceType")
    published, left_out = _published(source.slices, addresses_of)
    kept = _of_families(published, service.spec.ip_families)
    return ExportPlan(
        valid="Valid",
        exported=_exported(source, export, service),
        slices=tuple(_slices(source, kept, cluster=cluster)),
        left_out=left_out,
    )


def is_headless(service: core.Service) -> bool:
    """Return whether the Service has no virtual address of its own."""
    return service.spec.cluster_ip == "None"


def _exported(source: ExportInputs, export: mcs.ServiceExport, service: core.Service) -> fleet.ExportedService:
    affinity = service.spec.session_affinity
    config = service.spec.session_affinity_config
    client_ip = config.client_ip if config is not None else None
    timeout_s = (client_ip or core.CoreClientIP()).timeout_seconds if affinity == _CLIENT_IP else 0
    ports = [
        fleet.ServicePort(port=port.port, name=port.name, protocol=port.protocol, app_protocol=port.app_protocol)
        for port in service.spec.ports
    ]
    spec = fleet.ExportedServiceSpec(
        namespace=source.key.namespace,
        name=source.key.name,
        type="Headless" if is_headless(service) else "ClusterSetIP",
        ports=ports,
        session_affinity=affinity,
        session_affinity_timeout_s=timeout_s,
        internal_traffic_policy=service.spec.internal_traffic_policy,
        traffic_distribution=service.spec.traffic_distribution,
        ip_families=service.spec.ip_families,
        exported_labels=export.spec.exported_labels,
        exported_annotations=export.spec.exported_annotations,
        export_uid=export.metadata.uid,
        export_created=export.metadata.creation_timestamp,
    )
    return fleet.ExportedService(metadata=_metadata(source, name=source.key.dotted), spec=spec)


@dataclasses.dataclass(frozen=True, slots=True)
class _Published:
    """One endpoint at one fleet address."""

    address: Address
    ports: Ports
    endpoint: core.Endpoint


def _published(slices: Iterable[core.EndpointSlice], addresses_of: AddressesOf) -> tuple[list[_Published], int]:
    """Pair the endpoints with fleet addresses; count those that have none.

    A dual-stack Service lists each pod once for each family, and an endpoint that moves between slices is listed twice
    for a moment. So an address counts once for each port set, in its best state, as in kube-proxy.
    """
    best: dict[tuple[Address, Ports], core.Endpoint] = {}
    without: set[str] = set()
    for slice_ in sorted(slices, key=lambda s: (s.address_type, s.metadata.name)):
        ports = _ports(slice_)
        for endpoint in slice_.endpoints or ():
            uid = _pod_uid(endpoint)
            addresses = addresses_of(uid) if uid else ()
            if not addresses:
                without.add(uid or ",".join(endpoint.addresses))
            for address in addresses:
                other = best.get((address, ports))
                if other is None or _rank(endpoint) > _rank(other):
                    best[address, ports] = endpoint
    return [_Published(address, ports, endpoint) for (address, ports), endpoint in best.items()], len(without)


def _pod_uid(endpoint: core.Endpoint) -> str:
    ref = endpoint.target_ref
    return ref.uid if ref is not None and ref.kind == "Pod" else ""


def _rank(endpoint: core.Endpoint) -> tuple[bool, bool, bool]:
    conditions = endpoint.conditions
    return endpoint.ready, conditions.serving is not False, conditions.terminating is not True


def _ports(slice_: core.EndpointSlice) -> Ports:
    return tuple(sorted(slice_.ports or (), key=lambda p: (p.name, p.protocol, p.port or 0)))


def _of_families(published: Sequence[_Published], families: Sequence[str]) -> Sequence[_Published]:
    """Keep the addresses of the Service's own families; all of them when the fleet has none of these.

    A Service of one family promises nothing in the other. But if a cluster's own network has another family than the
    fleet, its Services' families say nothing about the fleet.
    """
    kept = [endpoint for endpoint in published if f"IPv{endpoint.address.version}" in families]
    return kept or published


def _slices(source: ExportInputs, published: Sequence[_Published], *, cluster: str) -> Iterator[core.EndpointSlice]:
    """Yield EndpointSlices: one address family and one port set each, at most 1000 endpoints, always in one order."""
    if not published:
        # An exporting cluster always has a slice, so that importers can tell "no endpoint" from "not received yet".
        yield _slice(source, 4, (), [], part="", cluster=cluster)
        return
    for (family, ports), group in itertools.groupby(sorted(published, key=_slice_order), key=_slice_kind):
        for part, members in _parts(list(group)):
            yield _slice(source, family, ports, members, part=part, cluster=cluster)


def _parts(members: list[_Published], path: str = "") -> Iterator[tuple[str, list[_Published]]]:
    """Divide endpoints into parts that fit a slice; a part's name is the hash bits that its addresses share.

    A part that is too large is halved by the next bit, without any effect on other parts: an endpoint that comes or
    goes rewrites one slice of a service with thousands. (Division by position would move one endpoint across every
    later border.) Both halves have new names, so that they exist before the whole is deleted.
    """
    if len(members) <= ENDPOINTS_PER_SLICE:
        yield path, members
        return
    bit = len(path)
    halves: dict[str, list[_Published]] = {"0": [], "1": []}
    for member in members:
        halves[str(_hash(member.address) >> bit & 1)].append(member)
    for name, half in halves.items():
        if half:
            yield from _parts(half, path + name)


def _hash(address: Address) -> int:
    return int.from_bytes(hashlib.blake2b(address.packed, digest_size=8).digest(), "big")


def _slice_kind(published: _Published) -> tuple[int, Ports]:
    return published.address.version, published.ports


def _slice_order(published: _Published) -> tuple[int, list[tuple[str, str, int, str]], int]:
    ports = [(port.name, port.protocol, port.port or 0, port.app_protocol or "") for port in published.ports]
    return published.address.version, ports, int(published.address)


def _slice(
    source: ExportInputs, family: int, ports: Ports, members: list[_Published], *, part: str, cluster: str
) -> core.EndpointSlice:
    labels = {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_PROXY_NAME: names.PROXY_NAME,
        names.LABEL_SERVICE_NAME: source.key.name,
        names.LABEL_SERVICE_NAMESPACE: source.key.namespace,
        names.LABEL_SOURCE_CLUSTER: cluster,
    }
    # Named by its content and not by its position, so that another port set renames nothing.
    name = f"{source.key.dotted}.ipv{family}.{_digest(ports)}" + (f".{part}" if part else "")
    metadata = _metadata(source, name=name)
    return core.EndpointSlice(
        metadata=msgspec.structs.replace(metadata, labels=labels),
        address_type=f"IPv{family}",
        endpoints=[_endpoint(member) for member in members],
        ports=list(ports),
    )


def _digest(ports: Ports) -> str:
    spelled = [f"{port.name}/{port.protocol}/{port.port}/{port.app_protocol}" for port in ports]
    return hashlib.sha256(",".join(spelled).encode()).hexdigest()[:8]


def _metadata(source: ExportInputs, *, name: str) -> meta.ObjectMeta:
    labels = {names.LABEL_SERVICE_NAME: source.key.name, names.LABEL_SERVICE_NAMESPACE: source.key.namespace}
    return meta.ObjectMeta(name=name, labels=labels)


def _endpoint(published: _Published) -> core.Endpoint:
    """Rewrite an endpoint for other clusters, without node and pod: other clusters may have the same names."""
    endpoint = published.endpoint
    return core.Endpoint(
        addresses=[str(published.address)],
        conditions=endpoint.conditions,
        hostname=endpoint.hostname or hostname(endpoint.addresses),
        zone=endpoint.zone,
    )


def hostname(primary: Sequence[str]) -> str | None:
    """Make a hostname, unique in its cluster, of a pod's primary address: a DNS label that means nothing elsewhere."""
    if not primary:
        return None
    try:
        address = ipaddress.ip_address(primary[0])
    except ValueError:
        # An FQDN slice: its endpoints have no pod and are left out earlier.
        return None
    return address.exploded.replace(".", "-").replace(":", "-")
