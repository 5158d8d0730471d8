"""All exports of one name make one service (KEP-1645's conflict rules).

One invariant: the result is a function of the set of exports and their precedence, never of the order in which they
arrived. Precedence is the hub's own record of when it first saw each export (``ledger``), oldest first, then the
cluster's name; what a member says of its own age plays no part.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Iterable, Sequence

import msgspec

from fleetboard.model import fleet
from syncer.rules import admission

MERGE_VERSION = 1
"""Raised when the rules change in a way that members must know of."""

HEADLESS = "Headless"
_SHOWN_LIMIT, _SHOWN_CLUSTERS = 500, 3
"""Characters of a value in a message, which stays below 1 KiB: a condition of 32 KiB holds all of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """How much the ports of all exports of a service may take, oldest first.

    Labels and annotations need no such room: they are the oldest's alone.

    Attributes:
        ports: Different ones: as many as one export may have, so that the oldest always has room. They are one DNS
            message where somebody asks for all SRV records of a name: 64 KiB are 390 of the longest ones.
        port_bytes: Of every export's list in JSON: nodes have to know who serves what. With all the rest a FleetService
            stays below 1.2 MB; etcd takes 1.5.
    """

    ports: int = admission.MAX_PORTS
    port_bytes: int = 768 * 1024


ROOM = Room()


@dataclasses.dataclass(frozen=True, slots=True)
class Export:
    """One cluster's export, with the hub's word on its age (RFC 3339, fixed width, so that text order is time's)."""

    cluster: str
    first_seen: str
    spec: fleet.ExportedServiceSpec


def merge(
    exports: Iterable[Export], *, vips: Sequence[str] = (), families: Sequence[str] = ("IPv4",), room: Room = ROOM
) -> fleet.FleetServiceSpec:
    """Merge at least one export of one service.

    ``vips`` are the service's claimed addresses; a headless service has none. ``families`` are the fleet's.
    """
    ordered = sorted(exports, key=lambda export: (export.first_seen, export.cluster))
    oldest = ordered[0].spec
    served = served_families(oldest, families)
    united, kept = unite_ports([export.spec.ports for export in ordered], room)
    return fleet.FleetServiceSpec(
        namespace=oldest.namespace,
        name=oldest.name,
        type=oldest.type,
        vips=[] if oldest.type == HEADLESS else _of_families(vips, served),
        ports=united,
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
                ports=ports,
                ports_left_out=_left_out(export.spec.ports, ports, room),
                export_uid=export.spec.export_uid,
                first_seen=export.first_seen,
            )
            for export, ports in zip(ordered, kept, strict=True)
        ],
        conflicts=find_conflicts(ordered, kept, families, room),
        merge_version=MERGE_VERSION,
    )


def unite_ports(
    port_lists: Iterable[Sequence[fleet.ServicePort]], room: Room = ROOM
) -> tuple[list[fleet.ServicePort], list[list[fleet.ServicePort]]]:
    """Unite lists of ports, oldest first: a name, or a number of a protocol, goes to whoever had it first.

    No name at all counts as a name, as Kubernetes allows one nameless port alone. Return the union, and of each list
    what there was room for. Once the bytes are used up nothing comes after, be it ever so small: what a port gets
    depends on older ones alone.
    """
    united: list[fleet.ServicePort] = []
    kept: list[list[fleet.ServicePort]] = []
    seen_names: set[str] = set()
    seen_numbers: set[tuple[str, int]] = set()
    bytes_left = room.port_bytes
    for ports in port_lists:
        kept.append([])
        for port in ports:
            new = port.name not in seen_names and (port.protocol, port.port) not in seen_numbers
            if new and len(united) >= room.ports:
                continue
            bytes_left -= len(msgspec.json.encode(port)) + 1
            if bytes_left < 0:
                break
            kept[-1].append(port)
            if new:
                seen_names.add(port.name)
                seen_numbers.add((port.protocol, port.port))
                united.append(port)
    return united, kept


def _left_out(given: Sequence[fleet.ServicePort], kept: Sequence[fleet.ServicePort], room: Room) -> str:
    """Say which ports of an export the service has no room for; nothing when it has room for all."""
    if len(kept) == len(given):
        return ""
    first = next(port for port, there in zip(given, [*kept, None], strict=False) if port is not there)
    return (
        f"spec.ports: {len(given) - len(kept)} of {len(given)} ports are left out, {_show_port(first)} first: expected "
        f"at most {_show_room(room)} from all exports of the service, of which older ones come first."
    )


def _show_room(room: Room) -> str:
    return f"{room.ports} different ports and {room.port_bytes} bytes of them"


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


def find_conflicts(
    ordered: Sequence[Export],
    kept: Sequence[Sequence[fleet.ServicePort]],
    families: Sequence[str] = ("IPv4",),
    room: Room = ROOM,
) -> dict[str, str]:
    """Say which fields the exports disagree on, whose value is used, and how many clusters want another.

    ``kept`` are the ports of each that there is room for.
    """
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
    crowded = [
        (export.cluster, len(export.spec.ports) - len(ports))
        for export, ports in zip(ordered, kept, strict=True)
        if len(ports) < len(export.spec.ports)
    ]
    if crowded:
        listed = [f'{count} of "{cluster}"' for cluster, count in crowded[:_SHOWN_CLUSTERS]]
        more = len(crowded) - len(listed)
        listed += [f"those of {more} younger exports"] if more else []
        sentence = f"The service has room for {_show_room(room)}: left out are {', '.join(listed)}."
        found["PortConflict"] = " ".join(filter(None, [found.get("PortConflict"), sentence]))
    return found


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_LIMIT else text[:_SHOWN_LIMIT] + "..."


def _port_set(spec: fleet.ExportedServiceSpec) -> object:
    return frozenset((port.name, port.protocol, port.port, port.app_protocol) for port in spec.ports)


def _affinity_config(spec: fleet.ExportedServiceSpec) -> object:
    # Without affinity a time-out says nothing.
    return spec.session_affinity_timeout_s if spec.session_affinity == "ClientIP" else 0


def _show_ports(spec: fleet.ExportedServiceSpec) -> str:
    listed = ", ".join(map(_show_port, spec.ports))
    return f"the union of all ports and, where they clash, [{listed}]"


def _show_port(port: fleet.ServicePort) -> str:
    return f"{port.name or '-'}:{port.port}/{port.protocol}"


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
