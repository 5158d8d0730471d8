"""Probes inside the tunnel: whether the way to a fleet address carries packets, known within a second.

``Prober`` and ``Responder`` decide, without I/O; ``ProbeSocket`` moves their datagrams over one UDP socket, so that
firewalls need one port number in both directions. Probes go out as ICMP echo requests where that is allowed, for a
kernel answers while its agent restarts. One invariant: a target is alive only by an echo of a nonce that was
sent to that very address.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import ipaddress
import logging
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from cnf.tunnel.plan import epochs
from cnf.tunnel.session import ping, wire
from fleetboard.model import names
from fleetboard.model.addresses import Address

log = logging.getLogger(__name__)

INTERVAL_S = 0.2
LOST_IS_DEAD = 3
UNDER_WAY = 10
"""Probes of one target that an echo may still answer: two seconds of them."""

Datagram = tuple[Address, bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeTarget:
    """What is known of one probed address.

    Attributes:
        alive: None until the first echo, or the first ``LOST_IS_DEAD`` losses.
        lost: Probes lost in a row.
        since: When ``alive`` became what it is; on the prober's clock.
        seen: When the last echo came; 0 for never.
        rtt_s: Of the last echo.
    """

    alive: bool | None = None
    lost: int = 0
    since: float = 0.0
    seen: float = 0.0
    rtt_s: float = 0.0


@dataclasses.dataclass(slots=True)
class _ProbeFlight:
    """One target and its probes that are under way: nonce to when it was sent, oldest first."""

    target: ProbeTarget
    due: float
    interval_s: float
    sent: dict[int, float] = dataclasses.field(default_factory=dict)
    silent: bool = False
    """Whether no echo came since the last probe."""


class Prober:
    """Probes every target each ``interval_s``; an interval in which no echo came counts as a lost probe.

    An echo may be late by some intervals (a satellite's round trip is longer than one): it still shows life.
    ``on_change(address, alive)`` tells a change of state and ``on_lost(address, lost)`` every loss; both are called
    in the thread of ``ProbeSocket.run`` and must return soon.
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
        """Probe these from now on; what is known of those that stay, stays.

        ``interval_s`` counts for those that are new.
        """
        now = self._clock()
        interval_s = interval_s or self._interval_s
        with self._lock:
            # Spread over the interval: a hub with 250 members must not send to all at one moment.
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
        """Count an echo; return False for one that nobody waits for."""
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


class Responder:
    """Answers probes, and announcements when it has ``leader_claims`` to enter them in.

    ``on_claim(cluster, claim)`` is called in the thread of ``ProbeSocket.run`` when an announcement is news. The ack is
    sent after it returned, so that the sender knows its announcement applied.
    """

    def __init__(
        self,
        leader_claims: epochs.LeaderClaims | None = None,
        *,
        on_claim: Callable[[str, epochs.LeaderClaim], None] = lambda _cluster, _claim: None,
    ) -> None:
        self._leader_claims = leader_claims
        self._on_claim = on_claim
        self.refused = 0
        """Announcements by those who may not make them."""

    def answer(self, message: wire.Message, source: Address) -> wire.Message | None:
        """Return the answer to a message, if there is one."""
        if isinstance(message, wire.Probe):
            return wire.Echo(message.nonce)
        if not isinstance(message, wire.Announcement) or self._leader_claims is None:
            return None
        verdict = self._leader_claims.receive(message, source)
        if verdict.ack is None:
            self.refused += 1
        if verdict.claim is not None:
            self._on_claim(message.cluster, verdict.claim)
        return verdict.ack


class ProbeSocket:
    """The UDP socket at the node's fleet address: ``run`` serves it; ``announce`` may be called from any thread."""

    def __init__(self, address: Address, *, prober: Prober, responder: Responder, port: int = names.PROBE_PORT) -> None:
        self.address = address
        self.port = port
        self.malformed = 0
        """Datagrams that were none of ours."""
        self._prober = prober
        self._responder = responder
        self._socket = _bind(address, port)
        self._pinger = ping.open_pinger(address)
        self._answers: dict[int, tuple[Address, threading.Event, list[wire.Ack]]] = {}

    def run(self, stop: threading.Event) -> None:
        """Send probes and answer datagrams until ``stop``; then the socket is closed."""
        with contextlib.ExitStack() as opened:
            sockets = [opened.enter_context(self._socket)]
            if self._pinger is not None:
                sockets.append(opened.enter_context(self._pinger.socket))
            while not stop.is_set():
                probes, rest_s = self._prober.due()
                for address, datagram in probes:
                    self._probe(address, datagram)
                readable, _, _ = select.select(sockets, [], [], min(rest_s, INTERVAL_S))
                if self._socket in readable:
                    self._drain()
                if readable and self._pinger is not None:
                    self._drain_pings(self._pinger)

    def announce(
        self,
        target: Address,
        *,
        cluster: str,
        claim: epochs.LeaderClaim,
        attempts: int = 5,
        wait_s: float = INTERVAL_S,
        stop: threading.Event | None = None,
    ) -> wire.Ack | None:
        """Tell ``target`` who leads; return its ack, or None when none came. ``run`` must be running."""
        nonce = random.getrandbits(62)
        arrived = threading.Event()
        acks: list[wire.Ack] = []
        self._answers[nonce] = (target, arrived, acks)
        datagram = wire.encode(wire.Announcement(nonce, cluster, claim.epoch, claim.public_key))
        try:
            for _ in range(attempts):
                self._send(target, datagram)
                if arrived.wait(wait_s) or (stop is not None and stop.is_set()):
                    break
        finally:
            self._answers.pop(nonce, None)
        return acks[0] if acks else None

    def _drain(self) -> None:
        for datagram, source, port in _received(self._socket):
            try:
                message = wire.decode(datagram)
            except wire.MalformedError:
                self.malformed += 1
                continue
            if port != self.port:
                self.malformed += 1
            elif isinstance(message, wire.Echo):
                self._prober.receive(message, source)
            elif isinstance(message, wire.Ack):
                self._acknowledge(message, source)
            elif (answer := self._responder.answer(message, source)) is not None:
                self._send(source, wire.encode(answer))

    def _drain_pings(self, pinger: ping.Pinger) -> None:
        for payload, source in pinger.received():
            try:
                message = wire.decode(payload)
            except wire.MalformedError:
                self.malformed += 1
                continue
            if isinstance(message, wire.Probe):
                self._prober.receive(wire.Echo(message.nonce), source)

    def _acknowledge(self, ack: wire.Ack, source: Address) -> None:
        target, arrived, acks = self._answers.get(ack.nonce, (None, None, None))
        if arrived is not None and acks is not None and target == source:
            acks.append(ack)
            arrived.set()

    def _probe(self, address: Address, datagram: bytes) -> None:
        if self._pinger is None:
            self._send(address, datagram)
            return
        try:
            self._pinger.send(address, datagram)
        except OSError as err:
            log.debug("cannot send an echo request", extra={"address": str(address), "error": str(err)})

    def _send(self, address: Address, datagram: bytes) -> None:
        try:
            self._socket.sendto(datagram, (str(address), self.port))
        except OSError as err:
            # No route, no peer, a full queue: the probe is lost, which is what probes are for.
            log.debug("cannot send to the probe port", extra={"address": str(address), "error": str(err)})


def _bind(address: Address, port: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # The address may come a moment later than we do (IP_FREEBIND, ip(7); IPv6 takes it from this option too).
        opened.setsockopt(socket.IPPROTO_IP, 15, 1)
        opened.bind((str(address), port))
    except OSError:
        opened.close()
        raise
    return opened


def _received(opened: socket.socket) -> Iterator[tuple[bytes, Address, int]]:
    """Yield what is in the socket's buffer; at most 256 datagrams, so that probes go out under a flood."""
    for _ in range(256):
        try:
            datagram, source = opened.recvfrom(wire.LARGEST + 1)
        except BlockingIOError:
            return
        except OSError as err:
            # A queued ICMP error of an earlier send, never of this socket's own making.
            if err.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH):
                continue
            raise
        yield datagram, _address(source[0]), source[1]


@functools.lru_cache(maxsize=4096)
def _address(text: str) -> Address:
    return ipaddress.ip_address(text)
