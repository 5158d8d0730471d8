"""Reconciles the kernel with the plan: the tunnel of this network namespace is kept as ``DesiredTunnel`` says.

A controller (``controllers.tunnel`` on a node, ``relay`` on the hub) passes its plan to ``set_desired``. ``run``
applies it in a thread of its own: at every new plan, when the link changed (``watch``), when the name of an endpoint
got another address (``resolver``), and every 30 s. ``sync`` does the same at once in the caller's thread: the relay
must move a member to its new leader before it acknowledges that. ``revive`` is for the session, when a peer fell
silent.

The order is: the node's addresses (``routing``), the link (``device``), its peers (``changes``, and a backend that
writes them), the link's settings, the routes. Each step needs the ones before it.

Invariant: one thread at a time reads the device, compares and writes, and it writes only the difference. So a sync that
finds nothing to do writes nothing, and a restart of the agent changes no session.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
import time
from collections.abc import Callable

from cnf.tunnel import errors
from cnf.tunnel.plan.desired import DesiredPeer, DesiredTunnel
from cnf.tunnel.plan.endpoints import SocketAddress
from cnf.tunnel.wireguard import changes, device, key, routing, watch
from cnf.tunnel.wireguard.resolver import Resolver
from fleetboard.model import names
from fleetboard.model.addresses import Network

log = logging.getLogger(__name__)

RESYNC_S = 30.0
"""When to compare with the device without an event: somebody else may have changed peers or routes."""
_POLL_S = 0.5
"""How often ``stop``, the watching thread and ``RESYNC_S`` are checked."""
_RETRY_S = (0.2, 5.0)
_FAILURES_AT_START = 3
"""Failures in a row that are no error yet: the container with wireguard-go may still be starting."""


@dataclasses.dataclass(frozen=True, slots=True)
class TunnelPeerStatus:
    """A peer as the device shows it now; ``handshake_age_s`` is None before the first handshake."""

    public_key: str
    endpoint: SocketAddress | None
    handshake_age_s: float | None
    rx_bytes: int
    tx_bytes: int
    allowed: frozenset[Network]


@dataclasses.dataclass(frozen=True, slots=True)
class Counters:
    """What the tunnel did since the start.

    Attributes:
        syncs: Comparisons with the device.
        writes: Writes to the device.
        revivals: Peers removed and added again for a new handshake.
        restores: Times the device was made again (wireguard-go had ended) and everything was written to it.
    """

    syncs: int = 0
    writes: int = 0
    revivals: int = 0
    restores: int = 0


class Tunnel:
    """WireGuard link ``name`` of the network namespace that the methods are called in.

    Pass plans to ``set_desired`` and run ``run`` in a thread of its own.
    """

    def __init__(
        self,
        name: str = names.TUNNEL_INTERFACE,
        *,
        private_key: key.PrivateKey,
        port: int = names.TUNNEL_PORT,
        resolver: Resolver | None = None,
        wait_s: float = device.WAIT_S,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.port = port
        self.counters = Counters()
        self._key = private_key
        self._wait_s = wait_s
        self._wall_clock = wall_clock
        self._resolver = resolver or Resolver(on_change=self.wake)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._desired: DesiredTunnel | None = None
        self._written: dict[str, SocketAddress] = {}
        self._turn: dict[str, int] = {}
        self._index = 0
        self._last = 0.0
        self._backend: device.WireGuardBackend | None = None

    @property
    def public_key(self) -> str:
        """The tunnel's own key."""
        return self._key.public

    @property
    def backend(self) -> str:
        """``kernel`` or ``userspace``; empty before the first sync."""
        return self._backend.kind if self._backend is not None else ""

    def set_desired(self, desired: DesiredTunnel) -> None:
        """Make ``run`` apply ``desired``. Does not wait, and costs nothing if it is unchanged."""
        if desired != self._desired:
            self._desired = desired
            self._wake.set()

    def wake(self) -> None:
        """Make ``run`` compare now."""
        self._wake.set()

    def sync(self, desired: DesiredTunnel) -> None:
        """Apply ``desired`` in this thread.

        Raises:
            TunnelError: something is not as desired; ``run`` tries again.
        """
        self._desired = desired
        try:
            with self._lock:
                self._apply(desired)
        except errors.TunnelError:
            self._wake.set()
            raise

    def revive(self, public_key: str) -> bool:
        """Remove a peer and add it again with its next endpoint; return False when there is no such peer.

        A peer that does not answer then gets a new handshake at once instead of after 15 s.

        Raises:
            TunnelError: the device is away or refused.
        """
        with self._lock:
            desired, backend = self._desired, self._backend
            if desired is None or backend is None or desired.peer(public_key) is None:
                return False
            self._turn[public_key] = self._turn.get(public_key, 0) + 1
            if public_key in backend.read().peers:
                self._write(backend, changes.DeviceChanges(remove=(public_key,)))
            self._sync_peers(backend, desired)
            self.counters = dataclasses.replace(self.counters, revivals=self.counters.revivals + 1)
        return True

    def status(self) -> list[TunnelPeerStatus]:
        """Return the peers as they are, by public key; none while the device is away."""
        backend = self._backend
        if backend is None:
            return []
        try:
            peers = backend.read().peers
        except errors.BackendError:
            return []
        now = self._wall_clock()
        return [_status(public_key, peers[public_key], now) for public_key in sorted(peers)]

    def run(self, stop: threading.Event) -> None:
        """Keep the tunnel as desired until ``stop``."""
        watcher = threading.Thread(target=watch.watch, args=(self.name, self.wake, stop), name="tunnel watch")
        watcher.start()
        failures = 0
        while not stop.is_set():
            woken = self._wake.wait(_POLL_S)
            if not watcher.is_alive() and not stop.is_set():
                raise errors.DeviceError(f"the watch of link {self.name} ended")
            if not woken and not self._due():
                continue
            self._wake.clear()
            error = self._try(stop)
            failures = failures + 1 if error is not None else 0
            if error is not None and not stop.is_set():
                pause_s = _back_off(failures)
                self._report(error, failures=failures, retry_s=pause_s)
                stop.wait(pause_s)
                self._wake.set()
        watcher.join()

    def _due(self) -> bool:
        return time.monotonic() - self._last >= RESYNC_S

    def _try(self, stop: threading.Event) -> errors.TunnelError | None:
        desired = self._desired
        if desired is not None:
            try:
                with self._lock:
                    self._apply(desired, stopped=stop.is_set)
            except errors.TunnelError as err:
                return err
        return None

    def _report(self, error: errors.TunnelError, *, failures: int, retry_s: float) -> None:
        level = logging.ERROR if failures > _FAILURES_AT_START else logging.WARNING
        extra = {"link": self.name, "error": str(error), "retry_s": round(retry_s, 1)}
        log.log(level, "could not bring the tunnel to its plan, retrying", extra=extra)

    def _apply(self, desired: DesiredTunnel, *, stopped: Callable[[], bool] = lambda: False) -> None:
        self._last = time.monotonic()
        self.counters = dataclasses.replace(self.counters, syncs=self.counters.syncs + 1)
        with device.open_rtnetlink() as rtnetlink:
            routing.ensure_addresses(rtnetlink, desired.addresses)
            link, backend = device.ensure(rtnetlink, self.name, mtu=desired.mtu, wait_s=self._wait_s, stopped=stopped)
            if link.index != self._index:
                restored = self._index != 0
                self._index = link.index
                self._written.clear()
                self.counters = dataclasses.replace(self.counters, restores=self.counters.restores + restored)
            self._backend = backend
            self._sync_peers(backend, desired)
            device.configure(rtnetlink, link, mtu=desired.mtu)
            routing.ensure_routes(rtnetlink, link, desired.routes)

    def _sync_peers(self, backend: device.WireGuardBackend, desired: DesiredTunnel) -> None:
        desired_device = changes.DesiredDevice(
            self._key.base64, self.port, {peer.public_key: self._resolve(peer) for peer in desired.peers}
        )
        difference = changes.diff(desired_device, backend.read(), written=self._written, now=self._wall_clock())
        if difference:
            self._write(backend, difference)

    def _resolve(self, peer: DesiredPeer) -> changes.ResolvedPeer:
        candidates = self._resolver.addresses(peer.endpoints)
        turn = self._turn.get(peer.public_key, 0)
        endpoint = candidates[turn % len(candidates)] if candidates else None
        return changes.ResolvedPeer(endpoint, peer.allowed, peer.keepalive_s)

    def _write(self, backend: device.WireGuardBackend, difference: changes.DeviceChanges) -> None:
        backend.apply(difference)
        self.counters = dataclasses.replace(self.counters, writes=self.counters.writes + 1)
        for public_key in difference.remove:
            self._written.pop(public_key, None)
        for update in difference.updates:
            if update.endpoint is not None:
                self._written[update.public_key] = update.endpoint


def _status(public_key: str, peer: changes.ActualPeer, now: float) -> TunnelPeerStatus:
    age = max(0.0, now - peer.handshake_at) if peer.handshake_at else None
    return TunnelPeerStatus(public_key, peer.endpoint, age, peer.rx_bytes, peer.tx_bytes, peer.allowed)


def _back_off(failures: int) -> float:
    least, most = _RETRY_S
    return float(min(most, least * 2 ** min(failures, 10)) * random.uniform(0.5, 1.0))
