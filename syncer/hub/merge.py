"""Merges all exports of one name into one service (KEP-1645's conflict rules).

Theory of operation: exports are sorted by precedence, oldest first. Precedence is when the hub first saw each export
(``precedence``), then the cluster's name; what a member says about its export's age plays no part.

1. The oldest export decides every field that a service has once: type, session affinity, policies, labels and
   annotations, address families. An export that wants another value stays, and the field is a conflict (``_FIELDS``).
2. Ports are united (``unite_ports``): the oldest export that has a port name, or a number of a protocol, defines it.
3. The union is bounded (``MergeLimits``). Ports that do not fit are left out of the youngest exports, and are a
   conflict.
4. Each export becomes a constituent with the ports that fit. Importers send a cluster only traffic of ports that it
   exports exactly as the union has them.

Invariant: the result is a function of the set of exports and their precedence, never of the order of arrival. Which of
an export's ports fit depends on older exports alone, so a new export takes no port from those that exist.
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
"""Limits of a value in a message, so that a message stays below 1 KiB and a condition (32 KiB) holds all of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class MergeLimits:
    """How much room the ports of all exports of a service have; older exports come first.

    Labels and annotations need no such limit: only the oldest export's are used.

    Attributes:
        ports: How many different ports: as many as one export may have, so that the oldest always fits. All SRV records
            of a name must fit one DNS message: 64 KiB hold 390 of the longest ones.
        port_bytes: How many bytes all constituents' lists take in JSON: nodes have to know which cluster serves what.
            With the rest, a FleetService stays below 1.2 MB; etcd takes 1.5.
    """

    ports: int = admission.MAX_PORTS
    port_bytes: int = 768 * 1024


LIMITS = MergeLimits()


@dataclasses.dataclass(frozen=True, slots=True)
class Export:
    """One cluster's export, and when the hub first saw it (RFC 3339 of fixed width, so that texts sort by time)."""

    cluster: str
    first_seen: str
    spec: fleet.ExportedServiceSpec


def merge(
    exports: Iterable[Export],
    *,
    vips: Sequence[str] = (),
    families: Sequence[str] = ("IPv4",),
    room: MergeLimits = LIMITS,
) -> fleet.FleetServiceSpec:
    """Merge one or more exports of one service; ``vips`` are its claimed addresses, ``families`` the fleet's."""
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
    port_lists: Iterable[Sequence[fleet.ServicePort]], room: MergeLimits = LIMITS
) -> tuple[list[fleet.ServicePort], list[list[fleet.ServicePort]]]:
    """Unite lists of ports, oldest first; a name, or a number of a protocol, belongs to the first list that has it.

    An empty name counts as a name, since Kubernetes allows one port without a name. Return the union, and of each list
    the ports that fit. When the byte budget is exhausted, all remaining ports are dropped, however small: whether a
    port fits depends on older ports alone.
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


def _left_out(given: Sequence[fleet.ServicePort], kept: Sequence[fleet.ServicePort], room: MergeLimits) -> str:
    """Return which ports of an export do not fit into the service; nothing when all do."""
    if len(kept) == len(given):
        return ""
    first = next(port for port, kept_port in zip(given, [*kept, None], strict=False) if port is not kept_port)
    return (
        f"spec.ports: {len(given) - len(kept)} of {len(given)} ports are left out, beginning with {_show_port(first)}: "
        f"expected at most {_show_room(room)} from all exports of the service; older exports come first."
    )


def _show_room(room: MergeLimits) -> str:
    return f"{room.ports} different ports and {room.port_bytes} bytes of ports"


def served_families(spec: fleet.ExportedServiceSpec, families: Sequence[str]) -> tuple[str, ...]:
    """Name the fleet's families that an export serves, in its Service's order.

    A Service that has none of them (its cluster's own network has another family), or whose exporter does not know the
    field, serves all of them: its pods have a fleet address of each.
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
    room: MergeLimits = LIMITS,
) -> dict[str, str]:
    """Return which fields the exports disagree on, whose value is used, and how many clusters want another.

    ``kept`` are the ports of each export that fit.
    """
    served: _Field = (
        "IPFamilyConflict",
        "address families",
        # Their order only asks for an order of the addresses; no endpoint is lost by it.
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
        sentence = f"The service has room for {_show_room(room)}. Left out: {', '.join(listed)}."
        found["PortConflict"] = " ".join(filter(None, [found.get("PortConflict"), sentence]))
    return found


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_LIMIT else text[:_SHOWN_LIMIT] + "..."


def _port_set(spec: fleet.ExportedServiceSpec) -> object:
    return frozenset((port.name, port.protocol, port.port, port.app_protocol) for port in spec.ports)


def _affinity_config(spec: fleet.ExportedServiceSpec) -> object:
    # Without affinity the timeout has no effect.
    return spec.session_affinity_timeout_s if spec.session_affinity == "ClientIP" else 0


def _show_ports(spec: fleet.ExportedServiceSpec) -> str:
    listed = ", ".join(map(_show_port, spec.ports))
    return f"the union of all ports and, where they clash, [{listed}]"


def _show_port(port: fleet.ServicePort) -> str:
    return f"{port.name or '-'}:{port.port}/{port.protocol}"


_DEFAULT_POLICY = "Cluster"
"""What an exporter of an older version, which sends none, means."""

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
