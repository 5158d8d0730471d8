"""The differences between the device as it must be and the device as it is.

Pure. Invariant: what stays is not written again. ``replace_allowed_ips`` (and ``wg syncconf``, which uses it) takes all
prefixes of a peer away for a moment, and packets are lost even when nothing changes. So a prefix that moves is added to
the peer that gains it. A prefix that no peer gains moves to a peer that exists for a moment only and is removed with
it: neither wireguard-go 0.0.20231211 nor kernels before 6.16 can remove a single prefix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cnf.tunnel.plan.desired import KEEPALIVE_S
from cnf.tunnel.plan.endpoints import SocketAddress
from fleetboard.model.addresses import Network

SESSION_S = 180.0
"""WireGuard's REJECT_AFTER_TIME: a session ends without a handshake for that long."""


@dataclasses.dataclass(frozen=True, slots=True)
class ResolvedPeer:
    """A peer as it must be, with its endpoint resolved."""

    endpoint: SocketAddress | None
    allowed: frozenset[Network]
    keepalive_s: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class DesiredDevice:
    """A WireGuard device as it must be; keys are base64."""

    private_key: str = dataclasses.field(repr=False)
    port: int
    peers: Mapping[str, ResolvedPeer]


@dataclasses.dataclass(frozen=True, slots=True)
class ActualPeer:
    """A peer as WireGuard holds it; ``handshake_at`` is wall-clock seconds, 0 for never."""

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
    """What to write to one peer, which is made if it does not exist. None leaves a field as it is."""

    public_key: str
    endpoint: SocketAddress | None = None
    keepalive_s: int | None = None
    add: frozenset[Network] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceChanges:
    """What to write, in this order: device, updates, drops, removals. It is false when there is nothing to write."""

    private_key: str | None = dataclasses.field(default=None, repr=False)
    port: int | None = None
    updates: tuple[PeerUpdate, ...] = ()
    drop: frozenset[Network] = frozenset()
    """Prefixes that no peer may hold any more, of peers that stay."""
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != DeviceChanges()


def diff(
    desired: DesiredDevice, actual: ActualDevice, *, written: Mapping[str, SocketAddress], now: float
) -> DeviceChanges:
    """Return what turns ``actual`` into ``desired``.

    ``written`` is the endpoint last written to each peer. WireGuard follows a peer that roams, so an endpoint that
    differs from ours may be the better one. Ours is written when the peer has none, when ours changed, or when the
    peer has no session that a write could break. ``now`` is wall-clock time.
    """
    updates = []
    for public_key in sorted(desired.peers):
        peer, held = desired.peers[public_key], actual.peers.get(public_key, ActualPeer())
        endpoint = _endpoint(peer, held, written.get(public_key), now)
        keepalive_s = _keepalive_s(peer, endpoint or held.endpoint)
        update = PeerUpdate(
            public_key,
            endpoint=endpoint,
            keepalive_s=keepalive_s if keepalive_s != held.keepalive_s else None,
            add=peer.allowed - held.allowed,
        )
        if public_key not in actual.peers or update != PeerUpdate(public_key):
            updates.append(update)
    everything = frozenset[Network]().union(*(peer.allowed for peer in desired.peers.values()))
    staying = (peer.allowed for public_key, peer in actual.peers.items() if public_key in desired.peers)
    return DeviceChanges(
        private_key=desired.private_key if desired.private_key != actual.private_key else None,
        port=desired.port if desired.port != actual.port else None,
        updates=tuple(updates),
        drop=frozenset[Network]().union(*staying) - everything,
        remove=tuple(sorted(actual.peers.keys() - desired.peers.keys())),
    )


def _endpoint(
    desired: ResolvedPeer, held: ActualPeer, written: SocketAddress | None, now: float
) -> SocketAddress | None:
    if desired.endpoint is None or desired.endpoint == held.endpoint:
        return None
    has_session = now - held.handshake_at < SESSION_S
    ours_changed = written is not None and written != desired.endpoint
    return desired.endpoint if held.endpoint is None or ours_changed or not has_session else None


def _keepalive_s(desired: ResolvedPeer, endpoint: SocketAddress | None) -> int:
    """Return the keepalive of a peer at ``endpoint``: one that is seen at another address than its own needs it.

    Then something translates addresses in between, such as a pod network that masquerades between nodes. After two idle
    minutes Linux forgets the translation, and packets to the address that was seen are lost until the session ends.
    """
    is_translated = desired.endpoint is not None and endpoint is not None and endpoint != desired.endpoint
    return desired.keepalive_s or (KEEPALIVE_S if is_translated else 0)
