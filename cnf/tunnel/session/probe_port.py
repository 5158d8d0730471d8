"""The probe port: one UDP socket inside the tunnel for probes, announcements and the answers to both.

One socket, so that firewalls need one port number in both directions. Probes go out as ICMP echo requests where that is
allowed, because a kernel answers while its agent restarts. Invariant: an announcement is acknowledged only after it was
applied.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import logging
import random
import select
import socket
import threading
from collections.abc import Callable, Iterator

from cnf.tunnel.session import epochs, ping, probe, wire
from fleetboard.model import names
from fleetboard.model.addresses import Address

log = logging.getLogger(__name__)


class Responder:
    """Answers probes, and announcements when it has ``highest_epochs`` to enter them in.

    ``on_new_leader(cluster, leader_epoch)`` is called in the thread of ``ProbeSocket.run`` when an announcement is new.
    The ack is sent after it returned, so that the sender knows its announcement applied.
    """

    def __init__(
        self,
        highest_epochs: epochs.HighestEpochs | None = None,
        *,
        on_new_leader: Callable[[str, epochs.LeaderEpoch], None] = lambda _cluster, _leader_epoch: None,
    ) -> None:
        self._highest_epochs = highest_epochs
        self._on_new_leader = on_new_leader
        self.refused = 0
        """Announcements whose sender may not make them."""

    def answer(self, message: wire.Message, source: Address) -> wire.Message | None:
        """Return the answer to a message, if there is one."""
        if isinstance(message, wire.Probe):
            return wire.Echo(message.nonce)
        if not isinstance(message, wire.Announcement) or self._highest_epochs is None:
            return None
        verdict = self._highest_epochs.receive(message, source)
        if verdict.ack is None:
            self.refused += 1
        if verdict.new_epoch is not None:
            self._on_new_leader(message.cluster, verdict.new_epoch)
        return verdict.ack


class ProbeSocket:
    """The UDP socket at the node's fleet address: ``run`` serves it; ``announce`` may be called from any thread."""

    def __init__(
        self, address: Address, *, prober: probe.Prober, responder: Responder, port: int = names.PROBE_PORT
    ) -> None:
        self.address = address
        self.port = port
        self.malformed = 0
        """Datagrams that are not messages of the probe port."""
        self._prober = prober
        self._responder = responder
        self._socket = _bind(address, port)
        self._pinger = ping.open_pinger(address)
        self._answers: dict[int, tuple[Address, threading.Event, list[wire.Ack]]] = {}

    def run(self, stop: threading.Event) -> None:
        """Send probes and answer datagrams until ``stop``, then close the socket."""
        with contextlib.ExitStack() as opened:
            sockets = [opened.enter_context(self._socket)]
            if self._pinger is not None:
                sockets.append(opened.enter_context(self._pinger.socket))
            while not stop.is_set():
                probes, rest_s = self._prober.due()
                for address, datagram in probes:
                    self._probe(address, datagram)
                readable, _, _ = select.select(sockets, [], [], min(rest_s, probe.INTERVAL_S))
                if self._socket in readable:
                    self._drain()
                if readable and self._pinger is not None:
                    self._drain_pings(self._pinger)

    def announce(
        self,
        target: Address,
        *,
        cluster: str,
        leader_epoch: epochs.LeaderEpoch,
        attempts: int = 5,
        wait_s: float = probe.INTERVAL_S,
        stop: threading.Event | None = None,
    ) -> wire.Ack | None:
        """Announce a leader to ``target``; return its ack, or None without one. ``run`` must be running."""
        nonce = random.getrandbits(62)
        arrived = threading.Event()
        acks: list[wire.Ack] = []
        self._answers[nonce] = (target, arrived, acks)
        datagram = wire.encode(wire.Announcement(nonce, cluster, leader_epoch.epoch, leader_epoch.public_key))
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
            log.debug("could not send an echo request", extra={"address": str(address), "error": str(err)})

    def _send(self, address: Address, datagram: bytes) -> None:
        try:
            self._socket.sendto(datagram, (str(address), self.port))
        except OSError as err:
            # No route, no peer or a full queue: the probe counts as lost, as it should.
            log.debug("could not send to the probe port", extra={"address": str(address), "error": str(err)})


def _bind(address: Address, port: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # The address may appear a moment after this socket (IP_FREEBIND, ip(7); it applies to IPv6 sockets too).
        opened.setsockopt(socket.IPPROTO_IP, 15, 1)
        opened.bind((str(address), port))
    except OSError:
        opened.close()
        raise
    return opened


def _received(opened: socket.socket) -> Iterator[tuple[bytes, Address, int]]:
    """Yield what is in the socket's buffer, 256 datagrams at most: probes must go out under a flood too."""
    for _ in range(256):
        try:
            datagram, source = opened.recvfrom(wire.LARGEST + 1)
        except BlockingIOError:
            return
        except OSError as err:
            # A queued ICMP error about an earlier send; the socket itself is fine.
            if err.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH):
                continue
            raise
        yield datagram, _address(source[0]), source[1]


@functools.lru_cache(maxsize=4096)
def _address(text: str) -> Address:
    return ipaddress.ip_address(text)
