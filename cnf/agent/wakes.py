"""Who wakes whom: which controllers have work after which event.

Built before every other part of the agent: whatever notices an event raises its source, and the controllers take their
work from the queues here. So no part needs to know another one that is built later.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

from fleetboard.kube import workqueue
from fleetboard.kube.controller import SINGLE

ChangeRecorder = Callable[[str], None]
"""Records an event for a controller, by the key of the object that changed."""


class AgentSource(enum.Enum):
    """Events that give controllers work; the value is for readers."""

    START = "the agent starts"
    MESH = "a FleetNode or Peer changed in a field that a plan reads"
    STATUS_ONLY = "this node's FleetNode changed in other fields alone"
    ZONE = "this node's zone changed"
    SERVICE = "a FleetService changed"
    ENDPOINTS = "an imported EndpointSlice changed"
    CLAIM = "a Claim changed"
    POD = "a pod of this node changed"
    LEADERSHIP = "the Lease changed hands"
    NETWORK = "the node took up another part of the fleet network"
    ISOLATION = "the relay became reachable or unreachable from this node"
    ATTACHMENT = "a pod of this node was attached or detached"


class AgentWork(enum.Enum):
    """What a controller reconciles, by the name that its metrics have."""

    TUNNEL = "tunnel"
    SERVICES = "services"
    BLOCKS = "blocks"
    STATUS = "fleetnode"
    ATTACHMENTS = "attachments"
    LATECOMERS = "latecomers"


WORK_BY_SOURCE: Mapping[AgentSource, tuple[AgentWork, ...]] = {
    AgentSource.START: (AgentWork.STATUS, AgentWork.ATTACHMENTS),
    AgentSource.MESH: (AgentWork.TUNNEL, AgentWork.BLOCKS, AgentWork.STATUS, AgentWork.SERVICES),
    AgentSource.STATUS_ONLY: (AgentWork.STATUS,),
    AgentSource.ZONE: (AgentWork.SERVICES,),
    AgentSource.SERVICE: (AgentWork.SERVICES,),
    AgentSource.ENDPOINTS: (AgentWork.SERVICES,),
    AgentSource.CLAIM: (AgentWork.BLOCKS,),
    AgentSource.POD: (AgentWork.LATECOMERS,),
    AgentSource.LEADERSHIP: (AgentWork.TUNNEL, AgentWork.BLOCKS, AgentWork.STATUS),
    AgentSource.NETWORK: (AgentWork.STATUS,),
    AgentSource.ISOLATION: (AgentWork.SERVICES, AgentWork.STATUS),
    AgentSource.ATTACHMENT: (AgentWork.ATTACHMENTS, AgentWork.STATUS),
}


class WorkQueues:
    """The controllers' queues, filled by ``WORK_BY_SOURCE``. Thread-safe.

    ``recorders`` are called with the event's key before anything is woken: a controller learns by them what changed.
    """

    def __init__(self, recorders: Mapping[AgentSource, ChangeRecorder] | None = None) -> None:
        self._recorders = recorders or {}
        self._queues = {work: workqueue.WorkQueue[str]() for work in AgentWork}

    def wake(self, source: AgentSource, key: str = "") -> None:
        """Give work to every controller that ``source`` concerns; ``key`` names the object that changed."""
        record = self._recorders.get(source)
        if record is not None:
            record(key)
        for work in WORK_BY_SOURCE[source]:
            self._queues[work].add(SINGLE)

    def queue(self, work: AgentWork) -> workqueue.WorkQueue[str]:
        """Return the queue of the controller that reconciles ``work``."""
        return self._queues[work]
