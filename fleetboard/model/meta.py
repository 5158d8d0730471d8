"""Metadata and conditions of API objects, with the fields that Fleetboard uses.

Every struct decodes any API object of its kind and drops unknown fields. So objects are written by server-side apply or
a merge patch of Fleetboard's own fields. Only objects that nobody else writes (Leases, Claims, and those of
``Client.put``) are replaced whole, which drops unknown fields.
"""

from __future__ import annotations

import msgspec


class ApiStruct(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Options of every struct that the API's JSON is decoded into: camelCase names, defaults left out."""


class OwnerReference(ApiStruct, frozen=True, kw_only=True):
    """metav1.OwnerReference."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(ApiStruct, frozen=True, kw_only=True):
    """metav1.ObjectMeta, without managedFields."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: list[str] = []
    owner_references: list[OwnerReference] = []

    @property
    def key(self) -> str:
        """``namespace/name``, or ``name`` of a cluster-scoped object."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Condition(ApiStruct, frozen=True, kw_only=True):
    """metav1.Condition: the first four fields and the time are required by the API.

    An observedGeneration of 0 is omitted: ``kubectl wait`` ignores a condition whose observedGeneration is below the
    object's generation.
    """

    type: str
    status: str
    reason: str
    message: str
    last_transition_time: str = ""
    observed_generation: int = 0


def find_condition(conditions: list[Condition], type_: str) -> Condition | None:
    """Return the condition of that type, if there is one."""
    return next((condition for condition in conditions if condition.type == type_), None)


def set_condition(conditions: list[Condition], new: Condition, *, now: str) -> list[Condition]:
    """Return ``conditions`` with ``new`` in place of the one of its type, sorted by type.

    lastTransitionTime moves only when the status flips (metav1.Condition's contract), so an unchanged state makes
    an unchanged list and needs no write. ``now`` is RFC 3339 with seconds.
    """
    old = find_condition(conditions, new.type)
    since = old.last_transition_time if old is not None and old.status == new.status else now
    kept = [condition for condition in conditions if condition.type != new.type]
    return sorted([*kept, msgspec.structs.replace(new, last_transition_time=since)], key=lambda c: c.type)
