"""Who wakes whom in a member's syncer.

``TIME_*`` starts a stopwatch: how long exports, imports and copies take is measured from the event to the write.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from syncer import bus


class MemberSource(enum.Enum):
    """What changed; the value says what its key is."""

    EXPORT = "service whose export plan may differ"
    HUB_EXPORT = "service whose objects in this cluster's namespace on the hub changed"
    DELIVERY = "service whose export was brought to the hub, or not"
    HUB_SERVICE = "service of which the hub's merge, slices or blocks may differ"
    IMPORT = "service whose ServiceImport, imported slices or namespace changed"
    APPLIED = "service whose ServiceImport was brought to its plan"
    ORIGINAL = "mirrored object that changed, or whose original on the hub did"
    OWN_PEER = "no key: the hub's Peer of this cluster changed"
    HUB_SYNCED = "no key: everything was listed from the hub for the first time"
    HUB_RETURNED = "no key: the hub took a report again after an outage"


class MemberWork(enum.Enum):
    """What a change asks for."""

    TIME_EXPORT = "start the service's export stopwatch"
    EXPORT = "reconcile the service's export"
    EXPORT_STATUS = "write the ServiceExport's conditions"
    TIME_IMPORT = "start the service's import stopwatch"
    IMPORT = "reconcile the service's import"
    IMPORT_STATUS = "write the ServiceImport's status"
    TIME_MIRROR = "start the stopwatch of the mirrored object"
    MIRROR = "reconcile the mirrored object"
    PROBE = "look for a question of the latency probe"
    REPORT = "report to the hub"
    ALL_EXPORTS = "reconcile every export"
    ALL_IMPORTS = "reconcile every import"
    HUB_WATCHES = "ask the hub for new watches"


MemberBus = bus.Bus[MemberSource, MemberWork]

WORK_BY_SOURCE: Mapping[MemberSource, tuple[MemberWork, ...]] = {
    MemberSource.EXPORT: (
        MemberWork.TIME_EXPORT,
        MemberWork.EXPORT,
        MemberWork.TIME_IMPORT,
        MemberWork.IMPORT,
    ),
    MemberSource.HUB_EXPORT: (MemberWork.EXPORT,),
    MemberSource.DELIVERY: (MemberWork.EXPORT_STATUS,),
    MemberSource.HUB_SERVICE: (
        MemberWork.EXPORT_STATUS,
        MemberWork.TIME_IMPORT,
        MemberWork.IMPORT,
        MemberWork.PROBE,
    ),
    MemberSource.IMPORT: (MemberWork.TIME_IMPORT, MemberWork.IMPORT),
    MemberSource.APPLIED: (MemberWork.IMPORT_STATUS,),
    MemberSource.ORIGINAL: (MemberWork.TIME_MIRROR, MemberWork.MIRROR),
    MemberSource.OWN_PEER: (MemberWork.REPORT, MemberWork.ALL_EXPORTS),
    MemberSource.HUB_SYNCED: (MemberWork.ALL_EXPORTS, MemberWork.ALL_IMPORTS),
    MemberSource.HUB_RETURNED: (MemberWork.HUB_WATCHES,),
}
