"""Keeps one service that the kernel refuses from holding up the others.

A refused service stays as it was, or absent; it is tried again when it changes, and after a pause that doubles.
Invariant: the same share of a service isn't sent to the kernel twice within its pause, unless the whole table has to be
written.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from cnf.vip.elements import Subject
from cnf.vip.table import ExportedPort, Frontend, Shares, VipTable

log = logging.getLogger(__name__)

FIRST_S, LONGEST_S = 1.0, 60.0
_SHOWN = 3


class RefusalReason(NamedTuple):
    """Why a service is refused: the address and port that the kernel complained about, and the kernel's text."""

    port: str
    text: str


RefusedServices = Mapping[str, RefusalReason]
"""Reasons by the service's key."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Refused:
    share: VipTable
    reason: RefusalReason
    failures: int
    again_at: float


class Refusals:
    """The currently refused services. Not thread-safe, except to read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused: Mapping[str, _Refused] = {}

    def __len__(self) -> int:
        return len(self._refused)

    @property
    def wait_s(self) -> float:
        """How long until the first of them is tried again; infinite without any."""
        return max(
            0.0, min((refused.again_at for refused in self._refused.values()), default=float("inf")) - self._clock()
        )

    def describe(self) -> str:
        """Name the services with port and reason, the first few of many; empty without any."""
        refused = self._refused
        named = [f"{key} ({refused[key].reason.port}: {refused[key].reason.text})" for key in sorted(refused)]
        return ", ".join([*named[:_SHOWN], *([f"{len(named) - _SHOWN} more"] if len(named) > _SHOWN else [])])

    def hold_back(self, wanted: Shares, former: Shares) -> Shares:
        """Return ``wanted``, with services whose pause isn't over as they are in ``former``."""
        now = self._clock()
        held = [
            key for key, refused in self._refused.items() if wanted.get(key) is refused.share and now < refused.again_at
        ]
        return leave_out(wanted, held, former) if held else wanted

    def record_attempt(self, wanted: Shares, tried: Shares, reasons: RefusedServices) -> None:
        """Record that of ``tried``, which ``hold_back`` made of ``wanted``, the kernel refused those of ``reasons``."""
        tried_keys = {key for key in self._refused if wanted.get(key) is tried.get(key)}
        self._replace(
            {key: refused for key, refused in self._refused.items() if key not in tried_keys or key in reasons}
        )
        self.record_refused(wanted, reasons)

    def record_refused(self, wanted: Shares, reasons: RefusedServices) -> None:
        """Record which of ``wanted`` the kernel refused."""
        if not reasons:
            return
        refused = dict(self._refused)
        for key, reason in reasons.items():
            failures = refused[key].failures + 1 if key in refused else 1
            pause_s = min(LONGEST_S, FIRST_S * 2 ** (failures - 1))
            refused[key] = _Refused(wanted[key], reason, failures, self._clock() + pause_s)
        self._replace(refused)

    def _replace(self, refused: Mapping[str, _Refused]) -> None:
        before, self._refused = self._refused, refused
        if refused.keys() - before.keys():
            message = "the kernel refuses services: they stay as they were, all others are in force"
            log.error(message, extra={"count": len(refused), "refused": self.describe()})
        elif before.keys() - refused.keys():
            extra = {"count": len(refused), "refused": self.describe()}
            log.info("services that the kernel refused are in force or deleted", extra=extra)


def leave_out(shares: Shares, keys: Iterable[str], former: Shares) -> Shares:
    """Return ``shares`` with those of ``keys`` as in ``former``, or without them where ``former`` has no other."""
    left = dict(shares)
    for key in keys:
        before = former.get(key)
        if before is None or before is left[key]:
            del left[key]
        else:
            left[key] = before
    return left


def find(shares: Shares, refused: Collection[tuple[Subject, str]]) -> RefusedServices:
    """Return the services that own the refused elements, each with its first reason.

    A virtual address is owned by the one service that has it (``table.combine``).
    """
    frontends = {subject: text for subject, text in refused if isinstance(subject, Frontend)}
    others = {(type(subject), subject): text for subject, text in refused if not isinstance(subject, Frontend)}
    reasons: dict[str, RefusalReason] = {}
    for key in sorted(shares):
        share = shares[key]
        for frontend in sorted(share.backends.keys() & frontends.keys()):
            reasons.setdefault(key, RefusalReason(_show(frontend), frontends.pop(frontend)))
        for (_, subject), text in others.items():
            if subject in share.exported or subject in share.hairpin:
                reasons.setdefault(key, RefusalReason(_show(subject), text))
    return reasons


def _show(subject: Subject) -> str:
    if isinstance(subject, Frontend | ExportedPort):
        host = f"[{subject.address}]" if subject.address.version == 6 else str(subject.address)
        return f"{host}:{subject.port}/{subject.protocol}"
    return str(subject)
