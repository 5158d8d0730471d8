"""Probes of fleet addresses: they show whether the path to an address carries packets.

Three lost probes in a row show that it does not: within a second at the default interval.

No I/O: ``Prober`` returns what to send and counts the echoes; ``probe_port`` moves the datagrams.
Invariant: a target is alive only by an echo of a nonce that was sent to that very address.
"""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable, Iterable

from cnf.tunnel.session import wire
from fleetboard.model.addresses import Address

INTERVAL_S = 0.2
LOST_IS_DEAD = 3
"""Probes lost in a row after which a target is dead."""
UNDER_WAY = 10
"""Probes of one target that an echo may still answer: those of two seconds at the default interval."""

Datagram = tuple[Address, bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeTarget:
    """What is known of one probed address.

    Attributes:
        alive: None until the first echo, or the first ``LOST_IS_DEAD`` losses.
        lost: Probes lost in a row.
        since: When ``alive`` became what it is; on the prober's clock.
        seen: When the last echo arrived; 0 for never.
        rtt_s: Of the last echo.
    """

    alive: bool | None = None
    lost: int = 0
    since: float = 0.0
    seen: float = 0.0
    rtt_s: float = 0.0


@dataclasses.dataclass(slots=True)
class _ProbeFlight:
    """One target and its probes under way: nonce -> time when it was sent, oldest first."""

    target: ProbeTarget
    due: float
    interval_s: float
    sent: dict[int, float] = dataclasses.field(default_factory=dict)
    silent: bool = False
    """Whether no echo arrived since the last probe."""


class Prober:
    """Probes every target once in ``interval_s``. An interval without an echo counts as a lost probe.

    An echo that is late by some intervals still shows life: a satellite's round trip is longer than one interval.
    ``on_change(address, alive)`` is called at a change of state, ``on_lost(address, lost)`` at every loss, both in the
    thread of ``ProbeSocket.run``. They must return soon.
    """

    def __init__(
        self,
        *,
        on_change: Callable[[Address, bool], None] = lambda _address, _alive: None,
        on_lost: Callable[[Address, int], None] = lambda _address, _lost: None,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_change = on_change
        self._on_lost = on_lost
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._flights: dict[Address, _ProbeFlight] = {}

    def set_targets(self, addresses: Iterable[Address], *, interval_s: float | None = None) -> None:
        """Probe these addresses from now on. The state of those that were targets before stays.

        ``interval_s`` applies to new targets only.
        """
        now = self._clock()
        interval_s = interval_s or self._interval_s
        with self._lock:
            # Spread over the interval: a relay with 250 members must not send to all of them at once.
            self._flights = {
                address: self._flights.get(address)
                or _ProbeFlight(ProbeTarget(since=now), now + random.uniform(0, interval_s), interval_s)
                for address in addresses
            }

    def state(self, address: Address) -> ProbeTarget | None:
        """Return what is known of one target."""
        flight = self._flights.get(address)
        return flight.target if flight is not None else None

    def states(self) -> dict[Address, ProbeTarget]:
        """Return what is known of every target."""
        with self._lock:
            return {address: flight.target for address, flight in self._flights.items()}

    def due(self) -> tuple[list[Datagram], float]:
        """Return the probes to send now, and the seconds until the next are due."""
        now = self._clock()
        probes: list[Datagram] = []
        losses: list[tuple[Address, ProbeTarget, ProbeTarget]] = []
        with self._lock:
            for address, flight in self._flights.items():
                if flight.due > now:
                    continue
                if flight.silent:
                    before, flight.target = flight.target, _lose(flight.target, now)
                    losses.append((address, before, flight.target))
                nonce = random.getrandbits(62)
                flight.sent = {**dict(list(flight.sent.items())[1 - UNDER_WAY :]), nonce: now}
                flight.silent = True
                flight.due = max(flight.due + flight.interval_s, now + flight.interval_s / 2)
                probes.append((address, wire.encode(wire.Probe(nonce))))
            rest = min((flight.due for flight in self._flights.values()), default=now + self._interval_s)
        for address, before, after in losses:
            self._report_change(address, before, after)
            self._on_lost(address, after.lost)
        return probes, max(0.0, rest - now)

    def receive(self, echo: wire.Echo, source: Address) -> bool:
        """Count an echo; return False for one that answers no probe under way."""
        now = self._clock()
        with self._lock:
            flight = self._flights.get(source)
            sent = flight.sent.pop(echo.nonce, None) if flight is not None else None
            if flight is None or sent is None:
                return False
            flight.silent = False
            before = flight.target
            since = before.since if before.alive else now
            after = flight.target = ProbeTarget(True, 0, since, now, now - sent)
        self._report_change(source, before, after)
        return True

    def _report_change(self, address: Address, before: ProbeTarget, after: ProbeTarget) -> None:
        if after.alive is not None and before.alive is not after.alive:
            self._on_change(address, after.alive)


def _lose(target: ProbeTarget, now: float) -> ProbeTarget:
    lost = target.lost + 1
    dead = lost >= LOST_IS_DEAD
    alive = False if dead else target.alive
    since = now if dead and target.alive is not False else target.since
    return dataclasses.replace(target, alive=alive, lost=lost, since=since)
