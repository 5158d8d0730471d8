"""All exports of one name make one service (KEP-1645's conflict rules).

One invariant: the result is a function of the set of exports and their precedence, never of the order in which they
arrived. Precedence is the hub's own record of when it first saw each export (``ledger``), oldest first, then the
cluster's name; what a member says of its own age plays no part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from fleetboard.model import fleet

MERGE_VERSION = 1
"""Raised when the rules change in a way that children must know of."""

HEADLESS = "Headless"


@dataclasses.dataclass(frozen=True, slots=True)
class Export:
    """One cluster's export, with the hub's word on its age (RFC 3339, fixed width, so that text order is time's)."""

    cluster: str
    first_seen: str
    spec: fleet.ExportedServiceSpec


def merge(exports: Iterable[Export], *, vips: Sequence[str] = ()) -> fleet.FleetServiceSpec:
    """Merge at least one export of one service.

    ``vips`` are the service's claimed addresses; a headless service has none.
    """
    ordered = sorted(exports, key=lambda export: (export.first_seen, export.cluster))
    oldest = ordered[0].spec
    return fleet.FleetServiceSpec(
        namespace=oldest.namespace,
        name=oldest.name,
        type=oldest.type,
        vips=[] if oldest.type == HEADLESS else list(vips),
        ports=union_ports(export.spec.ports for export in ordered),
        session_affinity=oldest.session_affinity,
        session_affinity_timeout_s=oldest.session_affinity_timeout_s,
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
        conflicts=find_conflicts(ordered),
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


def find_conflicts(ordered: Sequence[Export]) -> dict[str, str]:
    """Say which fields the exports disagree on, whose value is used, and how many clusters want another."""
    found: dict[str, str] = {}
    for reason, field, value_of, show in _FIELDS:
        winner = value_of(ordered[0].spec)
        others = sum(value_of(export.spec) != winner for export in ordered)
        if others:
            shown = show(ordered[0].spec)
            found[reason] = (
                f"Conflicting {field}. Using {shown} from oldest service export in "
                f'"{ordered[0].cluster}". {others}/{len(ordered)} clusters disagree.'
            )
    return found


def _port_set(spec: fleet.ExportedServiceSpec) -> object:
    return frozenset((port.name, port.protocol, port.port, port.app_protocol) for port in spec.ports)


def _affinity_config(spec: fleet.ExportedServiceSpec) -> object:
    # Without affinity a time-out says nothing.
    return spec.session_affinity_timeout_s if spec.session_affinity == "ClientIP" else 0


def _show_ports(spec: fleet.ExportedServiceSpec) -> str:
    listed = ", ".join(f"{port.name or '-'}:{port.port}/{port.protocol}" for port in spec.ports)
    return f"the union of all ports and, where they clash, [{listed}]"


_Spec = fleet.ExportedServiceSpec
_FIELDS: tuple[tuple[str, str, Callable[[_Spec], object], Callable[[_Spec], str]], ...] = (
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
    ("LabelsConflict", "exported labels", lambda spec: spec.exported_labels, lambda _: "those"),
    ("AnnotationsConflict", "exported annotations", lambda spec: spec.exported_annotations, lambda _: "those"),
)
