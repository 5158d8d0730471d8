"""Decides the conditions of a ServiceExport: Valid, Ready and Conflict (KEP-1645).

Pure. Invariant: equal inputs give equal conditions, so that an unchanged export costs no write. Only a changed status
moves lastTransitionTime.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from fleetboard.model import fleet, mcs, meta
from syncer.member.exports.plan import ExportPlan

MESSAGE_LIMIT = 32768
"""Most characters of a condition's message (metav1.Condition)."""
VALID, READY, CONFLICT = "Valid", "Ready", "Conflict"
_OURS = (VALID, READY, CONFLICT)

_VALID_MESSAGES: Mapping[str, str] = {
    "Valid": "The Service may be exported.",
    "NoService": "There is no Service of this name in this namespace.",
    "InvalidServiceType": "A Service of type ExternalName can't be exported.",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How far an export got on its way to the hub.

    Attributes:
        written: Whether the hub has it as planned.
        pending: Why the hub doesn't have it yet, as a sentence.
        refused: Why the hub refuses it until somebody changes something, as a sentence.
    """

    written: bool = False
    pending: str = ""
    refused: str = ""


def plan(
    service_export: mcs.ServiceExport,
    planned: ExportPlan,
    *,
    delivery: Delivery,
    merged: fleet.FleetService | None,
    cluster: str,
    now: str,
) -> list[meta.Condition]:
    """Return the conditions of ``service_export``, given the hub's merge of all exports of its name."""
    generation = service_export.metadata.generation
    if planned.valid != "Valid":
        message = _VALID_MESSAGES[planned.valid]
        wanted = [
            _condition(VALID, "False", planned.valid, message, generation=generation),
            _condition(READY, "False", "Pending", "Nothing is exported: " + _inline(message), generation=generation),
        ]
    else:
        own = _constituent(merged, cluster)
        wanted = [
            _condition(VALID, "True", "Valid", _VALID_MESSAGES["Valid"], generation=generation),
            _ready(planned, delivery, merged=merged, own=own, generation=generation),
        ]
        if merged is not None and own is not None:
            wanted.append(_conflict(merged, generation=generation))
    # Conditions of others stay; ours that no longer apply go.
    kept_types = {new.type for new in wanted}
    conditions = [old for old in service_export.status.conditions if old.type in kept_types or old.type not in _OURS]
    for condition in wanted:
        conditions = meta.set_condition(conditions, condition, now=now)
    return conditions


def is_member(merged: fleet.FleetService | None, cluster: str) -> bool:
    """Return whether the hub's merge has the export of ``cluster``."""
    return _constituent(merged, cluster) is not None


def _constituent(merged: fleet.FleetService | None, cluster: str) -> fleet.Constituent | None:
    constituents = [] if merged is None else merged.spec.constituents
    return next((constituent for constituent in constituents if constituent.cluster == cluster), None)


def _ready(
    planned: ExportPlan,
    delivery: Delivery,
    *,
    merged: fleet.FleetService | None,
    own: fleet.Constituent | None,
    generation: int,
) -> meta.Condition:
    if delivery.refused:
        return _condition(READY, "False", "Failed", delivery.refused, generation=generation)
    if not delivery.written:
        # While the hub can't be reached it withdraws nothing: an export that it once merged stays exported.
        if own is not None:
            message = f"Exported as the hub last accepted it. {delivery.pending}"
            return _condition(READY, "True", "Exported", message, generation=generation)
        return _condition(READY, "False", "Pending", delivery.pending, generation=generation)
    if merged is None or own is None:
        message = "Written to the hub, which has not merged it yet."
        return _condition(READY, "False", "Pending", message, generation=generation)
    # A headless service's name has the pods' addresses even without ports.
    if own.ports_left_out and not own.ports and merged.spec.type != "Headless":
        return _condition(READY, "False", "Failed", own.ports_left_out, generation=generation)
    message = "Exported to the clusterset."
    if planned.left_out:
        noun = "endpoint is" if planned.left_out == 1 else "endpoints are"
        message += f" {planned.left_out} {noun} left out: no fleet address."
    if own.ports_left_out:
        message += f" {own.ports_left_out}"
    return _condition(READY, "True", "Exported", message, generation=generation)


def _conflict(merged: fleet.FleetService, *, generation: int) -> meta.Condition:
    conflicts = merged.spec.conflicts
    if not conflicts:
        return _condition(CONFLICT, "False", "NoConflicts", "All exports of this name agree.", generation=generation)
    reasons = sorted(conflicts)
    message = " ".join(conflicts[reason] for reason in reasons)
    return _condition(CONFLICT, "True", ",".join(reasons), message, generation=generation)


def _inline(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _condition(type_: str, status: str, reason: str, message: str, *, generation: int) -> meta.Condition:
    return meta.Condition(
        type=type_, status=status, reason=reason, message=message[:MESSAGE_LIMIT], observed_generation=generation
    )
