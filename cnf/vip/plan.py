"""Decides which endpoints a service's virtual address leads to. Pure.

An endpoint is believed no further than its source cluster: an address outside the blocks that the hub allocated to that
cluster is dropped and counted. Invariant: a client reaches only endpoints of clusters that export exactly the port it
asked for (KEP-1645: name, protocol and number), whatever other clusters' slices say.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from cnf.vip import nearness, table
from cnf.vip.table import Backend, BackendAddress, ExportedPort, Frontend, VipTable
from fleetboard.model import addresses, keys, names, trust
from fleetboard.model import reach as model_reach
from fleetboard.model.addresses import Network
from fleetboard.model.core import EndpointSlice
from fleetboard.model.fleet import FleetService, Peer
from fleetboard.model.reach import Reach


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClustersetView:
    """What one node sees of the clusterset: where endpoints may be, and which of them are near.

    Attributes:
        cluster: Name of this cluster.
        blocks: Networks of each cluster's pods, as the hub allocated them.
        reach: Which clusters are reachable from here.
        malformed: Clusters whose blocks can't be read; none of their endpoints is believed.
        node_blocks: Blocks of this node.
        zone: Zone of this node, empty without one.
    """

    cluster: str
    blocks: Mapping[str, tuple[Network, ...]]
    reach: Reach = dataclasses.field(default_factory=Reach)
    malformed: frozenset[str] = frozenset()
    node_blocks: tuple[Network, ...] = ()
    zone: str = ""


def view_clusterset(
    peers: Iterable[Peer], *, cluster: str, node_blocks: Sequence[Network] = (), zone: str = "", isolated: bool = False
) -> ClustersetView:
    """Sum up the peers as this node sees them.

    Args:
        peers: The clusterset's peers, this cluster and the hub among them.
        cluster: Name of this cluster.
        node_blocks: Blocks of this node.
        zone: Zone of this node.
        isolated: Whether this node's own probe of the relay gets no answer.
    """
    peers = list(peers)
    blocks = {peer.metadata.name: _parse_blocks(peer) for peer in peers if peer.metadata.name != names.HUB}
    return ClustersetView(
        cluster=cluster,
        blocks={name: networks for name, networks in blocks.items() if networks is not None},
        malformed=frozenset(name for name, networks in blocks.items() if networks is None),
        reach=model_reach.read(peers, own=[cluster], isolated=isolated),
        node_blocks=tuple(node_blocks),
        zone=zone,
    )


def service_key(service: FleetService) -> str:
    """Return the key that a service's share has."""
    return keys.ServiceKey(service.spec.namespace, service.spec.name).dotted


def slice_key(endpoint_slice: EndpointSlice) -> str | None:
    """Return the key of the service that an imported slice belongs to; None for other slices."""
    labels = endpoint_slice.metadata.labels
    if labels.get(names.LABEL_MANAGED_BY) != names.MANAGED_BY or names.LABEL_SOURCE_CLUSTER not in labels:
        return None
    key = keys.of_imported(endpoint_slice)
    return None if key is None else key.dotted


def plan_service(service: FleetService | None, slices: Iterable[EndpointSlice], view: ClustersetView) -> VipTable:
    """Plan one service's share, from all slices of that service.

    Without ``service`` (not merged yet, or no longer) nothing answers. The ports of this cluster's own slices stay open
    to others even then: their connections outlive the merge.
    """
    candidates: list[nearness.Candidate] = []
    exported: set[ExportedPort] = set()
    dropped: Counter[str] = Counter()
    for endpoint_slice in slices:
        believed = list(_believe(endpoint_slice, view, dropped))
        candidates += believed
        if endpoint_slice.metadata.labels[names.LABEL_SOURCE_CLUSTER] == view.cluster:
            exported.update(
                ExportedPort(candidate.target.address, candidate.protocol, candidate.target.port)
                for candidate in believed
            )
    backends = {} if service is None else _plan_backends(service, candidates, view)
    on_node_addresses = {candidate.target.address for candidate in candidates if candidate.on_node}
    return VipTable(
        backends=backends,
        exported=frozenset(exported),
        hairpin=frozenset(
            target.address
            for backend in backends.values()
            for target in (backend.targets if on_node_addresses else ())
            if target.address in on_node_addresses
        ),
        dropped=dict(dropped),
    )


def _parse_blocks(peer: Peer) -> tuple[Network, ...] | None:
    try:
        return addresses.parse_networks(peer.status.cluster_cidrs, field="clusterCIDRs")
    except addresses.AddressRefusedError:
        return None


def _believe(
    endpoint_slice: EndpointSlice, view: ClustersetView, dropped: Counter[str]
) -> Iterator[nearness.Candidate]:
    """Yield a slice's endpoints by port; count in ``dropped`` those that are not believed."""
    cluster = endpoint_slice.metadata.labels[names.LABEL_SOURCE_CLUSTER]
    blocks, own = view.blocks.get(cluster, ()), cluster == view.cluster
    # The API server does not validate slice ports; an invalid one would fail the whole transaction.
    ports = [
        (port.name, table.PROTOCOLS[port.protocol], port.port)
        for port in endpoint_slice.ports or ()
        if port.port and trust.is_port(port.port) and port.protocol in table.PROTOCOLS
    ]
    for endpoint in endpoint_slice.endpoints or ():
        # An endpoint's addresses are interchangeable (discovery/v1): the first is used for all.
        address = trust.parse_endpoint(endpoint.addresses[0], blocks) if endpoint.addresses else None
        if address is None:
            dropped[cluster] += 1
            continue
        conditions = endpoint.conditions
        serving = endpoint.ready if conditions.serving is None else conditions.serving
        for name, protocol, port in ports:
            yield nearness.Candidate(
                cluster=cluster,
                name=name,
                protocol=protocol,
                target=BackendAddress(address, port),
                ready=endpoint.ready,
                serving=serving,
                on_node=own and trust.is_inside(address, view.node_blocks),
                # Zones of two clusters may have the same name and be far from each other.
                in_zone=own and bool(view.zone) and endpoint.zone == view.zone,
                in_cluster=own,
            )


def _plan_backends(
    service: FleetService, candidates: Sequence[nearness.Candidate], view: ClustersetView
) -> dict[Frontend, Backend]:
    """Join the service's ports with the endpoints behind them; a headless service has no virtual address."""
    spec = service.spec
    if spec.type != "ClusterSetIP":
        return {}
    backends = {}
    for vip in [address for address in map(trust.parse_unicast, spec.vips) if address is not None]:
        for port in spec.ports:
            protocol = table.PROTOCOLS.get(port.protocol)
            if protocol is None or not trust.is_port(port.port):
                continue
            clusters = view.reach.for_addresses(trust.exporters(spec, port))
            behind = [
                candidate
                for candidate in candidates
                if candidate.cluster in clusters
                and candidate.name == port.name
                and candidate.protocol == protocol
                and candidate.target.address.version == vip.version
            ]
            nearest = nearness.choose(
                behind, policy=spec.internal_traffic_policy, distribution=spec.traffic_distribution
            )
            targets = tuple(sorted({candidate.target for candidate in nearest}))
            backends[Frontend(vip, protocol, port.port)] = Backend(targets, sticky=spec.session_affinity == "ClientIP")
    return backends
