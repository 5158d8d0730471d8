"""Decides what of a member's EndpointSlice the clusterset gets to see.

Invariant: a copy holds nothing that the member may not publish. Its source cluster is that of the namespace the slice
is in, its addresses lie in blocks that the hub allocated to that cluster, and it has known labels and fields only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
from collections.abc import Sequence

import msgspec

from fleetboard.model import core, fleet, meta, names, trust
from fleetboard.model.addresses import Network
from syncer.rules import admission

_NAME_LIMIT = 253


@dataclasses.dataclass(frozen=True, slots=True)
class SliceCopy:
    """What becomes of one slice.

    Attributes:
        slice: The copy; None when the slice must not be copied.
        dropped: How many addresses are left out because they are not the cluster's.
        refused: Why the slice is not copied; empty when it is.
    """

    slice: core.EndpointSlice | None
    dropped: int = 0
    refused: str = ""


def copy_name(cluster: str, name: str) -> str:
    """Name the copy of a slice. No cluster's name holds a dot, so the copies of two clusters never share a name."""
    whole = f"{cluster}.{name}"
    if len(whole) <= _NAME_LIMIT:
        return whole
    return f"{cluster}.{hashlib.sha256(name.encode()).hexdigest()[:40]}"


def plan(source: core.EndpointSlice, *, cluster: str, peer: fleet.Peer | None, clusterset: str) -> SliceCopy:
    """Decide on the copy of ``source``, which was found in the namespace of ``cluster``."""
    if peer is None or not admission.is_admitted(peer):
        return SliceCopy(None, refused=f"cluster {cluster!r} is not admitted")
    labels = source.metadata.labels
    service = labels.get(names.LABEL_SERVICE_NAME, "")
    namespace = labels.get(names.LABEL_SERVICE_NAMESPACE, "")
    refused = admission.refuse_service(peer, namespace=namespace, name=service)
    if refused is not None:
        return SliceCopy(None, refused=refused)
    version = {"IPv4": 4, "IPv6": 6}.get(source.address_type)
    if version is None:
        return SliceCopy(None, refused=f"addressType {source.address_type!r} is not IPv4 or IPv6")
    wrong = [port.port for port in source.ports or [] if port.port is not None and not trust.is_port(port.port)]
    if wrong:
        # The API server takes any number here.
        return SliceCopy(None, refused=f"port {wrong[0]} is not between 1 and 65535")
    blocks = [ipaddress.ip_network(text) for text in peer.status.cluster_cidrs]
    own = [block for block in blocks if block.version == version]
    endpoints, dropped = _keep(source.endpoints or [], own)
    copied = core.EndpointSlice(
        metadata=meta.ObjectMeta(
            name=copy_name(cluster, source.metadata.name),
            namespace=names.clusterset_namespace(clusterset),
            # Importers see only the remaining addresses: this tells them that some were refused.
            annotations={names.ANNOTATION_REFUSED: str(dropped)} if dropped else {},
            labels={
                names.LABEL_SERVICE_NAME: service,
                names.LABEL_SERVICE_NAMESPACE: namespace,
                names.LABEL_SOURCE_CLUSTER: cluster,
                names.LABEL_MANAGED_BY: names.MANAGED_BY,
                names.LABEL_PROXY_NAME: names.PROXY_NAME,
            },
        ),
        address_type=source.address_type,
        endpoints=endpoints,
        ports=source.ports or [],
    )
    return SliceCopy(copied, dropped)


def _keep(endpoints: Sequence[core.Endpoint], own: Sequence[Network]) -> tuple[list[core.Endpoint], int]:
    kept: list[core.Endpoint] = []
    dropped = 0
    for endpoint in endpoints:
        usable = [text for text in endpoint.addresses if trust.is_endpoint(text, own)]
        dropped += len(endpoint.addresses) - len(usable)
        if usable:
            # Another cluster may have a node or a pod with the same name.
            kept.append(
                msgspec.structs.replace(endpoint, addresses=usable, node_name=None, target_ref=None, hints=None)
            )
    return kept, dropped
