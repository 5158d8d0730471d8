"""Who wakes whom in syncer-hub."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from syncer import bus


class HubSource(enum.Enum):
    """What changed at the hub's API; the value says what its key is."""

    PEER = "cluster of the Peer"
    REPORT = "cluster of the PeerReport"
    EXPORTED_SERVICE = "key of the ExportedService"
    SLICE = "key of the EndpointSlice, a member's or a copy"
    FLEET_SERVICE = "name of the FleetService"


class HubWork(enum.Enum):
    """What a change asks for."""

    MEMBER = "reconcile the member's Peer"
    MEMBER_COPIES = "reconcile the copies of a member whose rights changed"
    MEMBER_SERVICES = "reconcile the services of a member whose rights changed"
    COPY = "reconcile the copy that the slice is, or has"
    EXPORT = "reconcile the service that the export is of"
    SERVICE = "reconcile the service"


HubBus = bus.Bus[HubSource, HubWork]

WORK_BY_SOURCE: Mapping[HubSource, tuple[HubWork, ...]] = {
    HubSource.PEER: (HubWork.MEMBER, HubWork.MEMBER_COPIES, HubWork.MEMBER_SERVICES),
    HubSource.REPORT: (HubWork.MEMBER,),
    HubSource.EXPORTED_SERVICE: (HubWork.EXPORT,),
    HubSource.SLICE: (HubWork.COPY,),
    HubSource.FLEET_SERVICE: (HubWork.SERVICE,),
}
