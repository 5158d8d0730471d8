"""The differences between what WireGuard shall hold and what it holds.

Pure. One invariant: nothing that stays is written again. ``replace_allowed_ips`` (and ``wg syncconf``, which uses it)
takes all prefixes of a peer away for a moment and loses packets even when nothing changes; so a prefix that moves is
added to the gaining peer, and a prefix that nobody gains is moved to a peer that exists for that moment only, which
is then removed with it. (Neither wireguard-go 0.0.20231211 nor kernels before 6.16 have a way to remove a prefix.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cnf.tunnel.plan.endpoints import SocketAddress
from fleetboard.model.addresses import Network

SESSION_S = 180.0
"""WireGuard's REJECT_AFTER_TIME: without a handshake for that long there is no session."""


@dataclasses.dataclass(frozen=True, slots=True)
class ResolvedPeer:
    """A peer as it shall be, its endpoint resolved."""

    endpoint: SocketAddress | None
    allowed: frozenset[Network]
    keepalive_s: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class WantedDevice:
    """A WireGuard device as it shall be; keys are base64."""

    private_key: str = dataclasses.field(repr=False)
    port: int
    peers: Mapping[str, ResolvedPeer]


@dataclasses.dataclass(frozen=True, slots=True)
class ActualPeer:
    """A peer as WireGuard has it; ``handshake_at`` is wall-clock seconds, 0 for never."""

    endpoint: SocketAddress | None = None
    allowed: frozenset[Network] = frozenset()
    keepalive_s: int = 0
    handshake_at: float = 0.0
    rx_bytes: int = 0
    tx_bytes: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class ActualDevice:
    """A WireGuard device as it is."""

    private_key: str = dataclasses.field(repr=False)
    port: int
    peers: Mapping[str, ActualPeer]


@dataclasses.dataclass(frozen=True, slots=True)
class PeerUpdate:
    """What to write of one peer, which is made when it isn't there; None leaves a field as it is."""

    public_key: str
    endpoint: SocketAddress | None = None
    keepalive_s: int | None = None
    add: frozenset[Network] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceChanges:
    """What to write, in this order: device, updates, drops, removals. False when there is nothing."""

    private_key: str | None = dataclasses.field(default=None, repr=False)
    port: int | None = None
    updates: tuple[PeerUpdate, ...] = ()
    drop: frozenset[Network] = frozenset()
    """Prefixes that nobody shall have any more, of peers that stay."""
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != DeviceChanges()


def diff(
    wanted: WantedDevice, actual: ActualDevice, *, written: Mapping[str, SocketAddress], now: float
) -> DeviceChanges:
    """Return what turns ``actual`` into ``wanted``.

    ``written`` is the endpoint last written for each peer: WireGuard follows a peer that roams, so an endpoint that
    differs from ours may be the better one. It is written when the peer has none, when ours changed, or when the
    peer has no session that it could break. ``now`` is wall-clock time.
    """
    updates = []
    for public_key in sorted(wanted.peers):
        peer, held = wanted.peers[public_key], actual.peers.get(public_key)
        update = PeerUpdate(
            public_key,
            endpoint=_endpoint(peer, held or ActualPeer(), written.get(public_key), now),
            keepalive_s=peer.keepalive_s if peer.keepalive_s != (held.keepalive_s if held else 0) else None,
            add=peer.allowed - (held.allowed if held else frozenset()),
        )
        if held is None or update != PeerUpdate(public_key):
            updates.append(update)
    everything = frozenset[Network]().union(*(peer.allowed for peer in wanted.peers.values()))
    staying = (peer.allowed for public_key, peer in actual.peers.items() if public_key in wanted.peers)
    return DeviceChanges(
        private_key=wanted.private_key if wanted.private_key != actual.private_key else None,
        port=wanted.port if wanted.port != actual.port else None,
        updates=tuple(updates),
        drop=frozenset[Network]().union(*staying) - everything,
        remove=tuple(sorted(actual.peers.keys() - wanted.peers.keys())),
    )


def _endpoint(
    wanted: ResolvedPeer, held: ActualPeer, written: SocketAddress | None, now: float
) -> SocketAddress | None:
    if wanted.endpoint is None or wanted.endpoint == held.endpoint:
        return None
    has_session = now - held.handshake_at < SESSION_S
    ours_changed = written is not None and written != wanted.endpoint
    return wanted.endpoint if held.endpoint is None or ours_changed or not has_session else None
