"""A member's bus that wakes no controller and records the changes that are reported to it."""

from __future__ import annotations

from fleetboard.model.keys import ServiceKey
from syncer.member.wakes import WORK_BY_SOURCE, MemberBus, MemberSource


class RecordedBus(MemberBus):
    """Stands in for the rest of a member.

    Attributes:
        woken: Every change that was reported, with its key.
    """

    def __init__(self) -> None:
        super().__init__(WORK_BY_SOURCE)
        self.woken: list[tuple[MemberSource, object]] = []

    def wake(self, source: MemberSource, key: object = None) -> None:
        self.woken.append((source, key))

    def services(self, source: MemberSource) -> list[ServiceKey]:
        """Return the services that changed at ``source``."""
        return [key for at, key in list(self.woken) if at is source and isinstance(key, ServiceKey)]
