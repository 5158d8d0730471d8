"""Renders the EndpointSlices of an imported service, and checks what other clusters put into theirs.

Pure. Invariant: an address is imported only if it lies in a block that the hub allocated to the cluster which published
it. A port gets traffic only if the merge has it unchanged.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from fleetboard.model import core, fleet, mcs, meta, names
from fleetboard.model.addresses import Network
from fleetboard.model.trust import is_endpoint

Blocks = Mapping[str, tuple[Network, ...]]
"""Cluster name to the address blocks that the hub allocated to it."""


# What the API server accepts as the name of a zone in a hint; a zone itself may be any text.
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """A slice that may be imported, and how many addresses were left out of it."""

    slice: core.EndpointSlice
    dropped: int = 0


def render_own(
    source: core.EndpointSlice, exported: fleet.ExportedServiceSpec, merged: fleet.FleetServiceSpec, *, cluster: str
) -> core.EndpointSlice:
    """Render a slice of this cluster's own export plan; its addresses come from cnf and need no check."""
    own = next(
        (
            constituent
            for constituent in merged.constituents
            if constituent.cluster == cluster and constituent.ports_left_out
        ),
        None,
    )
    ports = served_ports(exported.ports if own is None else own.ports, merged)
    return _render(source, merged, cluster=cluster, ports=ports, endpoints=source.endpoints or [])


def render_remote(
    source: core.EndpointSlice,
    constituent: fleet.Constituent,
    merged: fleet.FleetServiceSpec,
    blocks: Iterable[Network],
) -> Checked:
    """Render another cluster's slice, leaving out addresses outside of ``blocks``."""
    blocks = tuple(blocks)
    checked = [_check(endpoint, blocks) for endpoint in source.endpoints or ()]
    given = sum(len(endpoint.addresses) for endpoint in source.endpoints or ())
    kept = sum(len(endpoint.addresses) for endpoint in checked)
    endpoints = [endpoint for endpoint in checked if endpoint.addresses]
    ports = served_ports(constituent.ports, merged)
    rendered = _render(source, merged, cluster=constituent.cluster, ports=ports, endpoints=endpoints)
    return Checked(rendered, dropped=given - kept + _refused_by_hub(source))


def _refused_by_hub(slice_: core.EndpointSlice) -> int:
    text = slice_.metadata.annotations.get(names.ANNOTATION_REFUSED, "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _check(endpoint: core.Endpoint, blocks: Iterable[Network]) -> core.Endpoint:
    """Keep what may be believed of a foreign endpoint: addresses in its cluster's blocks, no node, no pod."""
    kept = [text for text in endpoint.addresses if is_endpoint(text, blocks)]
    return core.Endpoint(addresses=kept, conditions=endpoint.conditions, hostname=endpoint.hostname, zone=endpoint.zone)


def served_ports(ports: Iterable[fleet.ServicePort], merged: fleet.FleetServiceSpec) -> frozenset[tuple[str, str]]:
    """Name the ports whose traffic may go to a constituent: those that it exports exactly as the merge has them.

    Slices join a service by port name, so a port that lost under the same name would get the winner's traffic.
    """
    won = frozenset(port.identity for port in merged.ports)
    return frozenset((port.name, port.protocol) for port in ports if port.identity in won)


def _render(
    source: core.EndpointSlice,
    merged: fleet.FleetServiceSpec,
    *,
    cluster: str,
    ports: frozenset[tuple[str, str]],
    endpoints: list[core.Endpoint],
) -> core.EndpointSlice:
    labels = {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_PROXY_NAME: names.PROXY_NAME,
        names.LABEL_SERVICE_NAME: merged.name,
        names.LABEL_SOURCE_CLUSTER: cluster,
        names.LABEL_KUBE_SERVICE_NAME: derived_service(merged.namespace, merged.name),
    }
    name = slice_name(merged.name, cluster=cluster, source=source.metadata.name)
    if merged.traffic_distribution in core.TRAFFIC_DISTRIBUTIONS:
        endpoints = [_hint(endpoint) for endpoint in endpoints]
    kept = [port for port in source.ports or () if (port.name, port.protocol) in ports]
    return core.EndpointSlice(
        metadata=meta.ObjectMeta(name=name, labels=labels),
        address_type=source.address_type,
        endpoints=endpoints,
        ports=kept,
    )


def _hint(endpoint: core.Endpoint) -> core.Endpoint:
    """Hint that clients of its own zone use an endpoint, as Kubernetes' controller does for every distribution.

    Zones with equal names are treated as one zone across clusters. No node is hinted: their names may repeat.
    """
    if endpoint.zone is None or not _LABEL_VALUE.fullmatch(endpoint.zone):
        return endpoint
    return msgspec.structs.replace(endpoint, hints=core.EndpointHints(for_zones=[core.ForZone(name=endpoint.zone)]))


def slice_name(service: str, *, cluster: str, source: str) -> str:
    """Name the imported slice of ``source``: always the same, and different for each source."""
    return f"{service}-{cluster}-{hashlib.sha256(f'{cluster}/{source}'.encode()).hexdigest()[:10]}"


def derived_service(namespace: str, name: str) -> str:
    """Name the Service that imported slices claim to belong to.

    The real name would mix other clusters' pods into the local Service. Without any name, software that expects one
    crashes. The reference implementation of the MCS API derives it in the same way.
    """
    digest = hashlib.sha256(f"{namespace}/{name}".encode()).digest()
    return "derived-" + base64.b32hexencode(digest).decode().lower()[:10]


def is_same(current: core.EndpointSlice, wanted: core.EndpointSlice, *, exact: bool = False) -> bool:
    """Return whether ``current`` needs no write to become ``wanted``; the API server shows no endpoints as null.

    Labels, annotations and finalizers that others put on it make no difference, unless it must be ``exact``.
    """
    return (
        _owner_uids(current) == _owner_uids(wanted)
        and (_has_metadata_of(current, wanted) if exact else _has_labels_of(current, wanted))
        and current.address_type == wanted.address_type
        and (current.endpoints or []) == (wanted.endpoints or [])
        and (current.ports or []) == (wanted.ports or [])
    )


def _has_labels_of(current: core.EndpointSlice, wanted: core.EndpointSlice) -> bool:
    labels = current.metadata.labels
    return all(labels.get(key) == value for key, value in wanted.metadata.labels.items())


def _has_metadata_of(current: core.EndpointSlice, wanted: core.EndpointSlice) -> bool:
    return (
        current.metadata.labels == wanted.metadata.labels
        and current.metadata.annotations == wanted.metadata.annotations
        and not current.metadata.finalizers
    )


def place(
    slice_: core.EndpointSlice, *, namespace: str, owners: Sequence[mcs.ServiceImport | core.Namespace] = ()
) -> core.EndpointSlice:
    """Put a planned slice into a namespace.

    MCS wants the ServiceImport as its owner. The namespace is a second owner: a slice that still has an owner is not
    collected. With the import alone, a user who deletes it starts a race: the garbage collector deletes the endpoints
    while syncer creates the import again, and connections that begin in between are refused.
    """
    references = [
        meta.OwnerReference(
            api_version=owner.api_version, kind=owner.kind, name=owner.metadata.name, uid=owner.metadata.uid
        )
        for owner in owners
    ]
    metadata = msgspec.structs.replace(slice_.metadata, namespace=namespace, owner_references=references)
    return msgspec.structs.replace(slice_, metadata=metadata)


def _owner_uids(slice_: core.EndpointSlice) -> set[str]:
    return {owner.uid for owner in slice_.metadata.owner_references}
