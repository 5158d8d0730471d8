"""Decides which endpoints answer for which virtual address: pure, from the objects the API holds.

An endpoint is trusted no further than its source cluster: an address outside the blocks the hub gave to that cluster
is dropped and counted. One invariant: a client reaches only endpoints of clusters that export exactly the port it
asked for (KEP-1645: name, protocol and number), whatever the slices of others say.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from cnf.vip import table
from cnf.vip.table import Backend, ExportedPort, Frontend, Protocol, ServiceVips, Target, VipTable
from fleetboard.model import names
from fleetboard.model.addresses import Address, Network
from fleetboard.model.core import EndpointSlice
from fleetboard.model.fleet import FleetService, Peer, ServicePort


@dataclasses.dataclass(frozen=True, slots=True)
class Members:
    """What the clusterset's peers say about where endpoints may be.

    Attributes:
        own: Name of this cluster.
        blocks: Networks of each cluster's pods, as the hub allocated them.
        unreachable: Clusters whose data path is down, seen from here.
    """

    own: str
    blocks: Mapping[str, tuple[Network, ...]]
    unreachable: frozenset[str]


@dataclasses.dataclass(frozen=True, slots=True)
class _Candidate:
    """One endpoint address of one slice port that lies where its cluster may be."""

    cluster: str
    name: str
    protocol: Protocol
    target: Target
    ready: bool
    serving: bool


def read_members(peers: Iterable[Peer], *, cluster: str, isolated: bool = False) -> Members:
    """Sum up the peers.

    Args:
        peers: The clusterset's peers, this cluster and the hub among them.
        cluster: Name of this cluster.
        isolated: Whether our own probe says that the tunnel is down; then all others are out of reach.
    """
    clusters = {peer.spec.cluster: peer for peer in peers if peer.metadata.name != names.HUB}
    own = clusters.get(cluster)
    cut_off = isolated or (own is not None and _withdrawn(own))
    return Members(
        own=cluster,
        blocks={
            name: tuple(ipaddress.ip_network(cidr) for cidr in peer.status.cluster_cidrs)
            for name, peer in clusters.items()
        },
        unreachable=frozenset(
            name for name, peer in clusters.items() if name != cluster and (cut_off or _withdrawn(peer))
        ),
    )


def plan_vips(
    services: Iterable[FleetService],
    slices: Iterable[EndpointSlice],
    peers: Iterable[Peer],
    *,
    cluster: str,
    local: Sequence[Network] = (),
    isolated: bool = False,
) -> VipTable:
    """Plan the whole table.

    Args:
        services: All FleetServices of the clusterset.
        slices: EndpointSlices of this cluster's API; those that aren't ours are left out.
        peers: The clusterset's peers, this cluster and the hub among them.
        cluster: Name of this cluster.
        local: Blocks of this node.
        isolated: Whether our own probe says that the tunnel is down.
    """
    members = read_members(peers, cluster=cluster, isolated=isolated)
    by_service: defaultdict[str, list[EndpointSlice]] = defaultdict(list)
    for endpoint_slice in slices:
        key = slice_key(endpoint_slice)
        if key is not None:
            by_service[key].append(endpoint_slice)
    by_key = {names.service_key(service.spec.namespace, service.spec.name): service for service in services}
    return table.combine(
        {
            key: plan_service(by_key.get(key), by_service.get(key, ()), members, local=local)
            for key in by_key.keys() | by_service.keys()
        }
    )


def slice_key(endpoint_slice: EndpointSlice) -> str | None:
    """Return the key of the service a slice of ours belongs to; None for slices of others."""
    labels = endpoint_slice.metadata.labels
    service = labels.get(names.LABEL_SERVICE_NAME, "")
    if labels.get(names.LABEL_MANAGED_BY) != names.MANAGER or not service or names.LABEL_SOURCE_CLUSTER not in labels:
        return None
    return names.service_key(endpoint_slice.metadata.namespace, service)


def plan_service(
    service: FleetService | None, slices: Iterable[EndpointSlice], members: Members, *, local: Sequence[Network] = ()
) -> ServiceVips:
    """Plan one service's share: callers that keep the shares re-plan only what changed.

    Without ``service`` (not merged yet, or no longer) nothing answers, yet what this cluster's own slices name stays
    open to others: their connections outlive the merge.
    """
    candidates: list[_Candidate] = []
    exported: set[ExportedPort] = set()
    dropped: Counter[str] = Counter()
    for endpoint_slice in slices:
        trusted = list(_trusted(endpoint_slice, members, dropped))
        candidates += trusted
        if endpoint_slice.metadata.labels[names.LABEL_SOURCE_CLUSTER] == members.own:
            exported.update(ExportedPort(seen.target.address, seen.protocol, seen.target.port) for seen in trusted)
    backends = {} if service is None else _backends(service, candidates, members)
    return ServiceVips(
        backends=backends,
        exported=frozenset(exported),
        hairpin=frozenset(
            target.address
            for backend in backends.values()
            for target in backend.targets
            if _inside(target.address, local)
        ),
        dropped=dict(dropped),
    )


def _withdrawn(peer: Peer) -> bool:
    return peer.status.health is not None and not peer.status.health.reachable


def _inside(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _trusted(endpoint_slice: EndpointSlice, members: Members, dropped: Counter[str]) -> Iterator[_Candidate]:
    """Yield a slice's endpoints by port, counting in ``dropped`` those that lie outside their cluster's blocks."""
    cluster = endpoint_slice.metadata.labels[names.LABEL_SOURCE_CLUSTER]
    blocks = members.blocks.get(cluster, ())
    ports = [
        (port.name, table.PROTOCOLS[port.protocol], port.port)
        for port in endpoint_slice.ports or ()
        # The API server takes any number here, and nft refuses a whole transaction for one that is none.
        if port.port and 0 < port.port < 65536 and port.protocol in table.PROTOCOLS
    ]
    for endpoint in endpoint_slice.endpoints or ():
        # An endpoint's addresses are fungible (discovery/v1): the first stands for all.
        address = _parse_address(endpoint.addresses[0]) if endpoint.addresses else None
        if address is None or not _inside(address, blocks):
            dropped[cluster] += 1
            continue
        conditions = endpoint.conditions
        serving = endpoint.ready if conditions.serving is None else conditions.serving
        for name, protocol, port in ports:
            target = Target(address, port)
            yield _Candidate(cluster, name, protocol, target, ready=endpoint.ready, serving=serving)


def _parse_address(text: str) -> Address | None:
    if "%" in text:  # a zone may hold any text, and addresses are printed into rules
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _backends(service: FleetService, candidates: Sequence[_Candidate], members: Members) -> dict[Frontend, Backend]:
    """Join the service's ports with the endpoints behind them; a headless service has no virtual address."""
    if service.spec.type != "ClusterSetIP":
        return {}
    sticky = service.spec.session_affinity == "ClientIP"
    backends = {}
    for vip in map(ipaddress.ip_address, service.spec.vips):
        for port in service.spec.ports:
            protocol = table.PROTOCOLS.get(port.protocol)
            if protocol is None:
                continue
            targets = _targets(_exporters(service, port) - members.unreachable, port, candidates, version=vip.version)
            backends[Frontend(vip, protocol, port.port)] = Backend(targets, sticky=sticky)
    return backends


def _exporters(service: FleetService, port: ServicePort) -> frozenset[str]:
    """Return the clusters that export exactly this port."""
    wanted = (port.name, port.protocol, port.port)
    return frozenset(
        constituent.cluster
        for constituent in service.spec.constituents
        if any((own.name, own.protocol, own.port) == wanted for own in constituent.ports)
    )


def _targets(
    clusters: frozenset[str], port: ServicePort, candidates: Sequence[_Candidate], *, version: int
) -> tuple[Target, ...]:
    """Return who answers: the ready, else those that still serve while they terminate."""
    behind = [
        seen
        for seen in candidates
        if seen.cluster in clusters
        and seen.name == port.name
        and seen.protocol == table.PROTOCOLS[port.protocol]
        and seen.target.address.version == version
    ]
    ready = {seen.target for seen in behind if seen.ready}
    return tuple(sorted(ready or {seen.target for seen in behind if seen.serving}))
