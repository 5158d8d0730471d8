"""The precedence of exports: which cluster exported a service first.

Theory of operation: an export's first-seen time is the creationTimestamp of its ExportedService, set by the hub's API
server, so no member can choose it. For live exports it is kept in ``FleetService.spec.constituents``. When an export
ends, its time moves to the ConfigMap ``ledger.<namespace>.<service>`` in the clusterset's namespace, and stays for
24 h. An export that returns in that time gets its old first-seen time back. The ConfigMap is written before the
FleetService drops the export, so that no crash between the two writes loses a time. Both survive a restart; members can
write neither, and can't read the ConfigMap.

Invariant: a cluster's first-seen time never moves later while it exports a service, nor within 24 h after. So an export
that is deleted and created again, or restored from a backup, changes no merged service.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from fleetboard.model import core, fleet, names, times

REMEMBER = datetime.timedelta(hours=24)
PREFIX = "ledger."
"""Of the ConfigMaps' names, which are stored on hubs: it stays."""
_KEY = "withdrawn"


@dataclasses.dataclass(frozen=True, slots=True)
class EndedExport:
    """An export that ended. Times are RFC 3339; the fields are those of the stored JSON."""

    cluster: str
    first_seen: str
    withdrawn: str


# Made by the thread that imports this, not by the first of several workers (see fleetboard.kube.encoding).
_decode = msgspec.json.Decoder(list[EndedExport]).decode


@dataclasses.dataclass(frozen=True, slots=True)
class Precedence:
    """What is remembered of one service's exports.

    Attributes:
        live: Cluster to first-seen time of the exports that exist.
        ended: Those that ended less than 24 h ago.
    """

    live: Mapping[str, str]
    ended: tuple[EndedExport, ...]


def update(before: Precedence, present: Mapping[str, str], *, now: datetime.datetime) -> Precedence:
    """Bring the precedence up to date with what is exported now.

    ``present`` maps each exporting cluster to its ExportedService's creationTimestamp.
    """
    remembered = [entry for entry in before.ended if not _expired(entry, now)]
    seen: dict[str, list[str]] = {}
    for cluster, first_seen in [*before.live.items(), *((entry.cluster, entry.first_seen) for entry in remembered)]:
        seen.setdefault(cluster, []).append(first_seen)
    live = {cluster: min([created, *seen.get(cluster, [])]) for cluster, created in present.items()}
    ending = [
        EndedExport(cluster, min(seen[cluster]), times.render(now)) for cluster in before.live if cluster not in present
    ]
    gone = {entry.cluster for entry in ending} | set(present)
    kept = [entry for entry in remembered if entry.cluster not in gone]
    return Precedence(live, tuple(sorted([*kept, *ending], key=lambda entry: entry.cluster)))


def read(service: fleet.FleetService | None, record: core.ConfigMap | None) -> Precedence:
    """Read what was stored; a record that can't be read counts as missing."""
    live = {} if service is None else {c.cluster: c.first_seen for c in service.spec.constituents if c.first_seen}
    text = "" if record is None else record.data.get(_KEY, "")
    try:
        ended = tuple(_decode(text)) if text else ()
    except (msgspec.DecodeError, msgspec.ValidationError):
        ended = ()
    return Precedence(live, ended)


def render(key: str, ended: Iterable[EndedExport], *, clusterset: str) -> dict[str, Any]:
    """Render the ConfigMap that remembers ended exports of service ``key``."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": record_name(key),
            "namespace": names.clusterset_namespace(clusterset),
            "labels": {names.LABEL_CLUSTERSET: clusterset},
        },
        "data": {_KEY: json.dumps([dataclasses.asdict(entry) for entry in ended])},
    }


def record_name(key: str) -> str:
    """Name the ConfigMap of a service's ended exports."""
    return f"{PREFIX}{key}"


def next_expiry_s(ended: Iterable[EndedExport], *, now: datetime.datetime) -> float | None:
    """Return the seconds until the first entry expires; None when there is no entry."""
    left = [(REMEMBER - times.age(entry.withdrawn, now=now)).total_seconds() for entry in ended]
    return max(min(left), 0.0) + 1.0 if left else None


def _expired(entry: EndedExport, now: datetime.datetime) -> bool:
    return times.age(entry.withdrawn, now=now) >= REMEMBER
