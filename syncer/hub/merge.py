"""All exports of one name make one service (KEP-1645's conflict rules).

One invariant: the result is a function of the set of exports and their precedence, never of the order in which they
arrived. Precedence is the hub's own record of when it first saw each export (``ledger``), oldest first, then the
cluster's name; what a member says of its own age plays no part.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Iterable, Sequence

from fleetboard.model import fleet

MERGE_VERSION = 1
"""Raised when the rules change in a way that children must know of."""

HEADLESS = "Headless"
_SHOWN_LIMIT = 800
"""Characters of a value in a message, which stays below 1 KiB: a condition of 32 KiB holds all of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Export:
    """One cluster's export, with the hub's word on its age (RFC 3339, fixed width, so that text order is time's)."""

    cluster: str
    first_seen: str
    spec: fleet.ExportedServiceSpec


def merge(
    exports: Iterable[Export], *, vips: Sequence[str] = (), families: Sequence[str] = ("IPv4",)
) -> fleet.FleetServiceSpec:
    """Merge at least one export of one service.

    ``vips`` are the service's claimed addresses; a headless service has none. ``families`` are the fleet's.
    """
    ordered = sorted(exports, key=lambda export: (export.first_seen, export.cluster))
    oldest = ordered[0].spec
    served = served_families(oldest, families)
    return fleet.FleetServiceSpec(
        namespace=oldest.namespace,
        name=oldest.name,
        type=oldest.type,
        vips=[] if oldest.type == HEADLESS else _of_families(vips, served),
        ports=union_ports(export.spec.ports for export in ordered),
        session_affinity=oldest.session_affinity,
        session_affinity_timeout_s=oldest.session_affinity_timeout_s,
        internal_traffic_policy=oldest.internal_traffic_policy,
        traffic_distribution=oldest.traffic_distribution,
        ip_families=list(served),
        exported_labels=oldest.exported_labels,
        exported_annotations=oldest.exported_annotations,
        constituents=[
            fleet.Constituent(
                cluster=export.cluster,
                ports=export.spec.ports,
                export_uid=export.spec.export_uid,
                first_seen=export.first_seen,
            )
            for export in ordered
        ],
        conflicts=find_conflicts(ordered, families),
        merge_version=MERGE_VERSION,
    )


def union_ports(port_lists: Iterable[Sequence[fleet.ServicePort]]) -> list[fleet.ServicePort]:
    """Unite lists of ports, oldest first: a name, or a number of a protocol, goes to whoever had it first.

    No name at all counts as a name, as Kubernetes allows one nameless port alone.
    """
    united: list[fleet.ServicePort] = []
    seen_names: set[str] = set()
    seen_numbers: set[tuple[str, int]] = set()
    for ports in port_lists:
        for port in ports:
            if port.name in seen_names or (port.protocol, port.port) in seen_numbers:
                continue
            seen_names.add(port.name)
            seen_numbers.add((port.protocol, port.port))
            united.append(port)
    return united


def served_families(spec: fleet.ExportedServiceSpec, families: Sequence[str]) -> tuple[str, ...]:
    """Name the fleet's families that an export serves, in its Service's order.

    A Service that has none of them (its cluster's own network is of another family), or whose exporter doesn't know
    the field, serves all: in the fleet its pods have an address of each.
    """
    shared = tuple(family for family in dict.fromkeys(spec.ip_families) if family in families)
    return shared or tuple(families)


def _of_families(vips: Sequence[str], families: Sequence[str]) -> list[str]:
    by_family = {f"IPv{ipaddress.ip_address(vip).version}": vip for vip in vips}
    return [by_family[family] for family in families if family in by_family]


def find_conflicts(ordered: Sequence[Export], families: Sequence[str] = ("IPv4",)) -> dict[str, str]:
    """Say which fields the exports disagree on, whose value is used, and how many clusters want another."""
    served: _Field = (
        "IPFamilyConflict",
        "address families",
        # Their order is a wish about the addresses' order, and takes nobody's endpoints away.
        lambda spec: frozenset(served_families(spec, families)),
        lambda spec: ", ".join(served_families(spec, families)),
    )
    found: dict[str, str] = {}
    for reason, field, value_of, show in (*_FIELDS, served):
        winner = value_of(ordered[0].spec)
        others = sum(value_of(export.spec) != winner for export in ordered)
        if others:
            shown = _cut(show(ordered[0].spec))
            found[reason] = (
                f"Conflicting {field}. Using {shown} from oldest service export in "
                f'"{ordered[0].cluster}". {others}/{len(ordered)} clusters disagree.'
            )
    return found


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_LIMIT else text[:_SHOWN_LIMIT] + "..."


def _port_set(spec: fleet.ExportedServiceSpec) -> object:
    return frozenset((port.name, port.protocol, port.port, port.app_protocol) for port in spec.ports)


def _affinity_config(spec: fleet.ExportedServiceSpec) -> object:
    # Without affinity a time-out says nothing.
    return spec.session_affinity_timeout_s if spec.session_affinity == "ClientIP" else 0


def _show_ports(spec: fleet.ExportedServiceSpec) -> str:
    listed = ", ".join(f"{port.name or '-'}:{port.port}/{port.protocol}" for port in spec.ports)
    return f"the union of all ports and, where they clash, [{listed}]"


_DEFAULT_POLICY = "Cluster"
"""What an exporter of the version before, which sends none, means."""

_Spec = fleet.ExportedServiceSpec
_Field = tuple[str, str, Callable[[_Spec], object], Callable[[_Spec], str]]
_FIELDS: tuple[_Field, ...] = (
    ("PortConflict", "ports", _port_set, _show_ports),
    ("TypeConflict", "type", lambda spec: spec.type, lambda spec: f'"{spec.type}"'),
    (
        "SessionAffinityConflict",
        "session affinity",
        lambda spec: spec.session_affinity,
        lambda spec: f'"{spec.session_affinity}"',
    ),
    (
        "SessionAffinityConfigConflict",
        "session affinity time-out",
        _affinity_config,
        lambda spec: f"{spec.session_affinity_timeout_s} s",
    ),
    (
        "InternalTrafficPolicyConflict",
        "internal traffic policy",
        lambda spec: spec.internal_traffic_policy or _DEFAULT_POLICY,
        lambda spec: f'"{spec.internal_traffic_policy or _DEFAULT_POLICY}"',
    ),
    (
        "TrafficDistributionConflict",
        "traffic distribution",
        lambda spec: spec.traffic_distribution,
        lambda spec: f'"{spec.traffic_distribution}"' if spec.traffic_distribution else "none",
    ),
    ("LabelsConflict", "exported labels", lambda spec: spec.exported_labels, lambda _: "those"),
    ("AnnotationsConflict", "exported annotations", lambda spec: spec.exported_annotations, lambda _: "those"),
)
