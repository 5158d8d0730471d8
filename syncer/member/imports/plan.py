"""Decides what this cluster imports under one name: a ServiceImport, and EndpointSlices of one source cluster each.

Pure: takes the hub's merge, the slices of other clusters, this cluster's own export and the existing objects as values.
Invariant: nothing is deleted because something could not be read.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import ipaddress
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from fleetboard.model import core, fleet, marks, mcs, meta, names
from syncer.member.exports.plan import ExportPlan
from syncer.rules import slices

CREATED, ADOPTED = "created", "adopted"
READY = "Ready"

OPTIONAL_FIELDS = frozenset({"internalTrafficPolicy", "trafficDistribution"})
"""Fields of a ServiceImport's spec that older definitions (CRDs) lack."""

# Computed once: msgspec evaluates every annotation at each call, which took most of the time of a reconcile.
_OPTIONAL = tuple(field.name for field in msgspec.structs.fields(mcs.ServiceImportSpec) if field.default is None)


class ImportAction(enum.Enum):
    """What happens to the ServiceImport."""

    WRITE = "write"
    REMOVE = "remove"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportInputs:
    """What one plan is made of: all that is known about one name.

    Attributes:
        cluster: This cluster.
        merged: The hub's merge of all exports.
        own: What this cluster itself exports.
        remote: Other clusters' slices on the hub; None until the hub has been listed.
        blocks: Each cluster's address blocks.
        families: Address families of this cluster's fleet addresses.
        current: The existing ServiceImport.
        accepted: Whether this cluster accepts imports in the namespace.
        fields: Those of OPTIONAL_FIELDS that this cluster's definition of a ServiceImport has.
    """

    cluster: str
    merged: fleet.FleetService | None
    own: ExportPlan
    remote: Sequence[core.EndpointSlice] | None
    blocks: slices.Blocks
    families: tuple[str, ...]
    current: mcs.ServiceImport | None
    accepted: bool = True
    fields: frozenset[str] = OPTIONAL_FIELDS


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """What this cluster must have under one name.

    Attributes:
        action: What to do with the ServiceImport.
        spec: Its spec; None when the user's stays.
        labels: The labels to set.
        annotations: The annotations to set.
        clusters: Exporting clusters, for its status.
        ready: Its Ready condition, without a time.
        slices: Its EndpointSlices, without namespace and owner.
        frozen: Whether other clusters' slices stay as they are, because the hub has not been listed yet.
        dropped: Source cluster to the number of refused addresses.
    """

    action: ImportAction
    spec: mcs.ServiceImportSpec | None = None
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    clusters: tuple[str, ...] = ()
    ready: meta.Condition | None = None
    slices: tuple[core.EndpointSlice, ...] = ()
    frozen: bool = False
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def slice_objects(self) -> str:
        """``status.endpointSliceObjects``: whether there are EndpointSlices for the import."""
        return "Present" if self.slices or self.frozen else "Absent"


def plan(inputs: ImportInputs) -> ImportPlan:
    """Decide what this cluster imports under one name."""
    if inputs.merged is None or not inputs.accepted:
        return _ended(inputs)
    merged = inputs.merged.spec
    remote, dropped = _remote(inputs, merged)
    spec = _known(_spec(merged, inputs.families), inputs.fields)
    labels = marks.take_labels(merged.exported_labels)
    annotations = marks.take_annotations(merged.exported_annotations)
    left_out = len(merged.exported_labels) + len(merged.exported_annotations) - len(labels) - len(annotations)
    current = inputs.current
    owner = CREATED if current is None else current.metadata.annotations.get(names.ANNOTATION_IMPORT_OWNER, ADOPTED)
    return ImportPlan(
        action=ImportAction.WRITE,
        spec=spec,
        labels=labels,
        annotations={**annotations, names.ANNOTATION_IMPORT_OWNER: owner},
        clusters=_clusters(inputs, merged),
        ready=_ready(spec, inputs.families, dropped, left_out=left_out),
        slices=(*_own(inputs, merged), *remote),
        frozen=inputs.remote is None,
        dropped=dropped,
    )


def _own(inputs: ImportInputs, merged: fleet.FleetServiceSpec) -> list[core.EndpointSlice]:
    """Render this cluster's own slices from its export plan, whether or not the hub can be reached."""
    exported = inputs.own
    if exported.exported is None:
        return []
    spec = exported.exported.spec
    served = [slice_ for slice_ in exported.slices if _is_served(slice_, merged)]
    return [slices.render_own(slice_, spec, merged, cluster=inputs.cluster) for slice_ in served]


def _is_served(slice_: core.EndpointSlice, merged: fleet.FleetServiceSpec) -> bool:
    """Return whether the service has the slice's family; a slice without endpoints is needed in any case."""
    return not (slice_.endpoints and merged.ip_families) or slice_.address_type in merged.ip_families


def _remote(inputs: ImportInputs, merged: fleet.FleetServiceSpec) -> tuple[list[core.EndpointSlice], Mapping[str, int]]:
    """Render other clusters' slices and count refused addresses; skip clusters that are not in the merge."""
    constituents = {
        constituent.cluster: constituent for constituent in merged.constituents if constituent.cluster != inputs.cluster
    }
    dropped: collections.Counter[str] = collections.Counter()
    rendered = []
    for slice_ in inputs.remote or ():
        cluster = slice_.metadata.labels.get(names.LABEL_SOURCE_CLUSTER, "")
        if cluster not in constituents or not _is_served(slice_, merged):
            continue
        checked = slices.render_remote(slice_, constituents[cluster], merged, inputs.blocks.get(cluster, ()))
        rendered.append(checked.slice)
        dropped[cluster] += checked.dropped
    return rendered, {cluster: count for cluster, count in dropped.items() if count}


def _ended(inputs: ImportInputs) -> ImportPlan:
    """Plan a name that nobody exports, or that is not accepted here.

    A ServiceImport that syncer created is deleted. A user's stays, emptied if syncer ever filled it.
    """
    if inputs.current is None:
        return ImportPlan(action=ImportAction.REMOVE)
    message = "No cluster exports this service."
    if not inputs.accepted:
        message = (
            "This cluster accepts no imports in this namespace (imports.namespaces and imports.refused of its agent)."
        )
    ready = meta.Condition(type=READY, status="False", reason="Pending", message=message)
    annotations = inputs.current.metadata.annotations
    owner = annotations.get(names.ANNOTATION_IMPORT_OWNER)
    if owner == CREATED:
        return ImportPlan(action=ImportAction.REMOVE)
    if owner is None:
        return ImportPlan(action=ImportAction.WRITE, ready=ready)
    empty = mcs.ServiceImportSpec(type=inputs.current.spec.type)
    return ImportPlan(
        action=ImportAction.WRITE, spec=empty, annotations={names.ANNOTATION_IMPORT_OWNER: ADOPTED}, ready=ready
    )


def _spec(spec: fleet.FleetServiceSpec, families: tuple[str, ...]) -> mcs.ServiceImportSpec:
    """Render the ServiceImport's spec; addresses and families always go together (conformance reads both at once)."""
    headless = spec.type == "Headless"
    vips = [] if headless else [ipaddress.ip_address(vip) for vip in spec.vips]
    # A headless service has no address that shows its families, and an older hub does not name them.
    served = spec.ip_families or list(families)
    config = None
    if spec.session_affinity == "ClientIP" and spec.session_affinity_timeout_s:
        client_ip = mcs.ClientIPConfig(timeout_seconds=spec.session_affinity_timeout_s)
        config = mcs.SessionAffinityConfig(client_ip=client_ip)
    return mcs.ServiceImportSpec(
        type=spec.type,
        ports=[
            mcs.ImportPort(port=port.port, protocol=port.protocol, name=port.name, app_protocol=port.app_protocol)
            for port in spec.ports
        ],
        ips=[str(vip) for vip in vips],
        ip_families=served if headless else [f"IPv{vip.version}" for vip in vips],
        session_affinity=spec.session_affinity,
        session_affinity_config=config,
        internal_traffic_policy=spec.internal_traffic_policy or None,
        traffic_distribution=spec.traffic_distribution or None,
    )


def _known(spec: mcs.ServiceImportSpec, fields: frozenset[str]) -> mcs.ServiceImportSpec:
    """Leave out fields that this cluster's CRD lacks: server-side apply fails as a whole with one of them."""
    if "internalTrafficPolicy" not in fields:
        spec = msgspec.structs.replace(spec, internal_traffic_policy=None)
    if "trafficDistribution" not in fields:
        spec = msgspec.structs.replace(spec, traffic_distribution=None)
    return spec


def _clusters(inputs: ImportInputs, merged: fleet.FleetServiceSpec) -> tuple[str, ...]:
    """List the exporting clusters; about itself this cluster knows better than the hub."""
    others = {constituent.cluster for constituent in merged.constituents} - {inputs.cluster}
    own = {inputs.cluster} if inputs.own.exported is not None else set()
    return tuple(sorted(others | own))


def _ready(
    spec: mcs.ServiceImportSpec, families: tuple[str, ...], dropped: Mapping[str, int], *, left_out: int
) -> meta.Condition:
    if families and spec.ip_families and not set(families) & set(spec.ip_families):
        message = (
            f"The service has {' and '.join(spec.ip_families)} addresses, but this cluster's pods have "
            f"{' and '.join(families)} fleet addresses."
        )
        return meta.Condition(type=READY, status="False", reason="IPFamilyNotSupported", message=message)
    if spec.type != "Headless" and not spec.ips:
        message = "The hub has not allocated a virtual address to the service yet."
        return meta.Condition(type=READY, status="False", reason="Pending", message=message)
    message = "Imported from the clusterset."
    for cluster, count in sorted(dropped.items()):
        noun = "address" if count == 1 else "addresses"
        message += f" {count} {noun} of cluster {cluster} refused: outside the blocks that the hub allocated to it."
    if left_out:
        noun = "label or annotation" if left_out == 1 else "labels and annotations"
        message += f" {left_out} exported {noun} left out: invalid, reserved or too large."
    return meta.Condition(type=READY, status="True", reason="Ready", message=message)


def obsolete_slices(
    current: Iterable[core.EndpointSlice], plan_: ImportPlan, *, cluster: str
) -> list[core.EndpointSlice]:
    """Return the slices that are not in the plan; when it is frozen, only this cluster's own."""
    wanted = {slice_.metadata.name for slice_ in plan_.slices}
    unwanted = [slice_ for slice_ in current if slice_.metadata.name not in wanted]
    if not plan_.frozen:
        return unwanted
    return [slice_ for slice_ in unwanted if slice_.metadata.labels.get(names.LABEL_SOURCE_CLUSTER) == cluster]


def marks_of(plan_: ImportPlan) -> frozenset[str]:
    """Name the labels, the annotations and the optional fields that a plan sets."""
    return _marks(plan_.labels, plan_.annotations, plan_.spec)


def _marks(labels: Iterable[str], annotations: Iterable[str], spec: mcs.ServiceImportSpec | None) -> frozenset[str]:
    fields = () if spec is None else (name for name, value in _optional(spec).items() if value is not None)
    return frozenset(
        [
            *(f"label {key}" for key in labels),
            *(f"annotation {key}" for key in annotations),
            *(f"field {name}" for name in fields),
        ]
    )


def _optional(spec: mcs.ServiceImportSpec) -> dict[str, object]:
    """Return the optional fields: where the plan has none, somebody else's value may stay."""
    return {name: getattr(spec, name) for name in _OPTIONAL}


def needs_write(current: mcs.ServiceImport | None, plan_: ImportPlan, *, written: frozenset[str] | None) -> bool:
    """Return whether the ServiceImport differs from the plan.

    ``written`` are the marks of our last write. Before the first write, any mark that exists and is not planned may be
    from before a restart, and one write removes it.
    """
    if current is None or plan_.spec is None:
        return current is None
    unplanned = {name: None for name, value in _optional(plan_.spec).items() if value is None}
    if msgspec.structs.replace(current.spec, **unplanned) != plan_.spec:
        return True
    labels, annotations = current.metadata.labels, current.metadata.annotations
    if any(labels.get(key) != value for key, value in plan_.labels.items()):
        return True
    if any(annotations.get(key) != value for key, value in plan_.annotations.items()):
        return True
    existing = _marks(labels, annotations, current.spec)
    return bool((existing if written is None else written) - marks_of(plan_))
