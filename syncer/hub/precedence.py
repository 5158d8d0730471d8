"""The hub's memory of who exported a service first.

One invariant: a cluster's first-seen time never moves later while it exports a service, nor within 24 h of having
stopped, so that an export that is deleted and made again, or restored from a backup, flips no service. The times are
those of the hub's API server (creationTimestamp of the ExportedService), which no member can choose.

Where it lives: of exports that are there, in FleetService.spec.constituents; of withdrawn ones, in one ConfigMap
``ledger.<ns>.<svc>`` of the clusterset's namespace, written before the FleetService forgets them. Both survive a
restart, and members can read neither the ConfigMap nor write any of it.
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
_KEY = "withdrawn"


@dataclasses.dataclass(frozen=True, slots=True)
class Withdrawn:
    """An export that ended. Times are RFC 3339."""

    cluster: str
    first_seen: str
    withdrawn: str


# Made by the thread that imports this, not by the first of several workers (see fleetboard.kube.encoding).
_decode = msgspec.json.Decoder(list[Withdrawn]).decode


@dataclasses.dataclass(frozen=True, slots=True)
class Precedence:
    """All that is remembered of one service.

    Attributes:
        live: Cluster to first-seen time, of the exports that are there.
        withdrawn: Those that ended less than 24 h ago.
    """

    live: Mapping[str, str]
    withdrawn: tuple[Withdrawn, ...]


def update(known: Precedence, present: Mapping[str, str], *, now: datetime.datetime) -> Precedence:
    """Bring the precedence to what is exported now.

    ``present`` maps each exporting cluster to its ExportedService's creationTimestamp.
    """
    remembered = [entry for entry in known.withdrawn if not _expired(entry, now)]
    seen: dict[str, list[str]] = {}
    for cluster, first_seen in [*known.live.items(), *((entry.cluster, entry.first_seen) for entry in remembered)]:
        seen.setdefault(cluster, []).append(first_seen)
    live = {cluster: min([created, *seen.get(cluster, [])]) for cluster, created in present.items()}
    ended = [
        Withdrawn(cluster, min(seen[cluster]), times.render(now)) for cluster in known.live if cluster not in present
    ]
    gone = {entry.cluster for entry in ended} | set(present)
    kept = [entry for entry in remembered if entry.cluster not in gone]
    return Precedence(live, tuple(sorted([*kept, *ended], key=lambda entry: entry.cluster)))


def read(service: fleet.FleetService | None, record: core.ConfigMap | None) -> Precedence:
    """Read what was kept; a record that can't be read counts as none."""
    live = {} if service is None else {c.cluster: c.first_seen for c in service.spec.constituents if c.first_seen}
    text = "" if record is None else record.data.get(_KEY, "")
    try:
        withdrawn = tuple(_decode(text)) if text else ()
    except (msgspec.DecodeError, msgspec.ValidationError):
        withdrawn = ()
    return Precedence(live, withdrawn)


def render(key: str, withdrawn: Iterable[Withdrawn], *, clusterset: str) -> dict[str, Any]:
    """Render the ConfigMap that remembers withdrawn exports of service ``key``."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": record_name(key),
            "namespace": names.clusterset_namespace(clusterset),
            "labels": {names.LABEL_CLUSTERSET: clusterset},
        },
        "data": {_KEY: json.dumps([dataclasses.asdict(entry) for entry in withdrawn])},
    }


def record_name(key: str) -> str:
    """Name the ConfigMap of a service's withdrawn exports."""
    return f"{PREFIX}{key}"


def next_expiry_s(withdrawn: Iterable[Withdrawn], *, now: datetime.datetime) -> float | None:
    """Return in how many seconds the first entry is forgotten, or None when there is none."""
    left = [(REMEMBER - times.age(entry.withdrawn, now=now)).total_seconds() for entry in withdrawn]
    return max(min(left), 0.0) + 1.0 if left else None


def _expired(entry: Withdrawn, now: datetime.datetime) -> bool:
    return times.age(entry.withdrawn, now=now) >= REMEMBER
