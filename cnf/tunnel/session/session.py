"""Keeps a node's session with the relay: probes the relay, announces a new leader and revives a silent peer.

Invariant: every decision here depends on what the tunnel itself carries, never on an API. So the session works while
the API servers of the hub and of the member are away.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable

from cnf.tunnel import errors
from cnf.tunnel.session import epochs, probe, probe_port, revive, wire
from cnf.tunnel.wireguard.tunnel import Tunnel
from fleetboard.model.addresses import Address

log = logging.getLogger(__name__)

TICK_S = 0.1
"""Seconds between two steps of a session: how late a lost probe revives the peer or isolates the node."""
ISOLATED_S = 1.0
"""A relay that is silent for this long makes everything behind it unreachable."""
RELAYED_S = 1.0
"""Seconds between the probes of a node without a session.

They pass through the leader, and there may be thousands of nodes.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """What this node's session must be.

    Attributes:
        address: The node's fleet address; probes leave from it and arrive at it.
        cluster: Of this node.
        relay_key: The relay's public key; empty when this node keeps no session.
        relay_address: The relay's fleet address.
        leader_epoch: What to announce to the relay; set while this node leads.
    """

    address: Address
    cluster: str
    relay_key: str = ""
    relay_address: Address | None = None
    leader_epoch: epochs.LeaderEpoch | None = None


class SessionRunner:
    """Runs the session that ``update`` was given last."""

    def __init__(
        self,
        tunnel: Tunnel,
        *,
        outbid: Callable[[int], None] = lambda _epoch: None,
        on_isolation: Callable[[], None] = lambda: None,
    ) -> None:
        """``outbid(epoch)`` is called when the relay knows a higher epoch than ours: the Lease's must exceed it.

        ``on_isolation`` is called at every change of ``isolated``.
        """
        self._tunnel, self._outbid, self._on_isolation = tunnel, outbid, on_isolation
        self.isolated = False
        """Whether the relay answers no probe, on whichever path this node has to it."""
        self._changed = threading.Event()
        self._session: Session | None = None
        self._announced: epochs.LeaderEpoch | None = None
        self._revivals = revive.Revivals()
        self._interval_s = probe.INTERVAL_S
        self.prober = probe.Prober()

    def update(self, session: Session) -> None:
        """Keep ``session`` from now on. Does not wait."""
        if session != self._session:
            self._session = session
            self._changed.set()

    def run(self, stop: threading.Event) -> None:
        """Serve the probe port and keep the session until ``stop``."""
        while not stop.is_set():
            session = self._session
            if session is None:
                self._changed.wait(TICK_S)
                continue
            self._serve(session.address, stop)

    def _serve(self, address: Address, stop: threading.Event) -> None:
        """Serve at one address, until ``stop`` or until the node has another one."""
        ended = threading.Event()
        probe_socket = probe_port.ProbeSocket(address, prober=self.prober, responder=probe_port.Responder())
        serving = threading.Thread(target=probe_socket.run, args=(ended,), name="probe port", daemon=True)
        serving.start()
        try:
            while not stop.is_set() and serving.is_alive():
                session = self._session
                if session is None or session.address != address:
                    return
                self._step(session, probe_socket, stop)
                self._changed.wait(TICK_S)
                self._changed.clear()
        finally:
            ended.set()
            serving.join(5)
        if not stop.is_set():
            raise errors.DeviceError("the probe port's thread ended")

    def _step(self, session: Session, probe_socket: probe_port.ProbeSocket, stop: threading.Event) -> None:
        relay = session.relay_address
        interval_s = probe.INTERVAL_S if session.relay_key else RELAYED_S
        if interval_s != self._interval_s:
            self.prober.set_targets([])  # an interval applies to new targets only
            self._interval_s = interval_s
        self.prober.set_targets([relay] if relay is not None else [], interval_s=interval_s)
        self._update_isolation(relay)
        if relay is None or not session.relay_key:
            self._announced = None
            return
        self._revive(session, relay)
        if session.leader_epoch is not None and session.leader_epoch != self._announced:
            ack = probe_socket.announce(relay, cluster=session.cluster, leader_epoch=session.leader_epoch, stop=stop)
            if ack is not None:
                self._announced = session.leader_epoch
                self._receive_ack(session.leader_epoch, ack)

    def _receive_ack(self, leader_epoch: epochs.LeaderEpoch, ack: wire.Ack) -> None:
        if ack.accepted:
            log.info("the relay accepted this leader", extra={"epoch": leader_epoch.epoch})
            return
        extra = {"epoch": leader_epoch.epoch, "known": ack.epoch}
        log.warning("the relay refused this leader: its epoch is not the highest, or has another leader", extra=extra)
        # A Lease that was deleted or restored counts from below what the relay saw, which it refuses.
        self._outbid(ack.epoch)

    def _update_isolation(self, relay: Address | None) -> None:
        state = self.prober.state(relay) if relay is not None else None
        isolated = is_isolated(state, interval_s=self._interval_s)
        if isolated is not self.isolated:
            self.isolated = isolated
            if isolated:
                log.warning("the relay does not answer")
            else:
                log.info("the relay answers")
            self._on_isolation()

    def _revive(self, session: Session, relay: Address) -> None:
        """Ask for a new handshake when the relay fell silent: a new process may not know the session."""
        state = self.prober.state(relay)
        if state is None or state.lost == 0:
            self._revivals = revive.Revivals()
            return
        age = next(
            (peer.handshake_age_s for peer in self._tunnel.status() if peer.public_key == session.relay_key), None
        )
        now = time.monotonic()
        if not revive.is_due(self._revivals, lost=state.lost, handshake_age_s=age, now=now):
            return
        self._revivals = revive.record_revival(self._revivals, now=now)
        try:
            self._tunnel.revive(session.relay_key)
        except errors.TunnelError as err:
            log.warning("could not revive the relay's peer, retrying", extra={"error": str(err)})


def is_isolated(state: probe.ProbeTarget | None, *, interval_s: float) -> bool:
    """Return whether the probes of the relay, sent every ``interval_s``, show that nothing behind it can be reached.

    It begins as False, unlike ``alive``: before the first probes nothing is known, and nothing is withdrawn.
    """
    return state is not None and state.lost >= probe.LOST_IS_DEAD and state.lost * interval_s >= ISOLATED_S
