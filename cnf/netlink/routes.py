"""Routes of the main table (include/uapi/linux/rtnetlink.h).

Invariant: every route that cnf adds carries a protocol number of its own: ``PROTOCOL`` is the CNI server's, and the
tunnel has another. Only such routes are read.
"""

from __future__ import annotations

import dataclasses
import errno
import struct

from cnf.netlink import addresses, connection, errors, wire
from cnf.netlink.wire import Flag, Message
from fleetboard.model.addresses import Address, Network

_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_INFO = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, destination length, source length, TOS, table, protocol, scope, type, flags."""
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC = 1, 4, 5, 6, 7
_MAIN = 254
_UNIVERSE, _LINK, _NOWHERE = 0, 253, 255
_UNICAST, _UNREACHABLE = 1, 7
_ONLINK = 4

PROTOCOL = 112
"""rtm_protocol of the CNI server's routes: any number that no routing daemon has (/etc/iproute2/rt_protos)."""
WORST = 0xFFFFFFFF
"""The highest metric: any other route is preferred."""


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """One route. Without ``index`` it is ``unreachable``; without ``gateway`` the destination is on the link."""

    destination: Network
    index: int = 0
    gateway: Address | None = None
    source: Address | None = None
    metric: int = 0
    protocol: int = PROTOCOL

    def _body(self) -> bytes:
        version = self.destination.version
        scope = _UNIVERSE if self.gateway or not self.index or version == 6 else _LINK
        body = _INFO.pack(
            addresses.FAMILY[version],
            self.destination.prefixlen,
            0,
            0,
            _MAIN,
            self.protocol,
            scope,
            _UNICAST if self.index else _UNREACHABLE,
            _ONLINK if self.gateway else 0,
        )
        body += wire.attribute(_DST, self.destination.network_address.packed)
        if self.index:
            body += wire.u32(_OIF, self.index)
        if self.gateway is not None:
            body += wire.attribute(_GATEWAY, self.gateway.packed)
        if self.source is not None:
            body += wire.attribute(_PREFSRC, self.source.packed)
        if self.metric:
            body += wire.u32(_PRIORITY, self.metric)
        return body

    def put(self) -> Message:
        """Return the message that adds the route, or replaces the one of the same destination and metric."""
        action = f"put {'route' if self.index else 'unreachable route'} {self.destination}"
        return Message(_NEWROUTE, wire.PUT, self._body(), action)

    def delete(self) -> Message:
        """Return the message that deletes the route of this metric, device and gateway, if it exists."""
        gone = frozenset({errno.ESRCH, errno.ENOENT})
        return Message(_DELROUTE, Flag.ACK, self._body(), f"delete route {self.destination}", gone)


@dataclasses.dataclass(frozen=True, slots=True)
class InstalledRoute:
    """One of our routes as the kernel reports it, with packed addresses."""

    destination: bytes
    length: int
    index: int
    gateway: bytes
    source: bytes
    metric: int
    unreachable: bool


def delete_any(destination: Network, *, protocol: int) -> Message:
    """Return the message that deletes the route of that destination which ``protocol`` marks, if it exists.

    It matches whatever the route does with a packet: device, gateway and metric don't count.
    """
    head = _INFO.pack(
        addresses.FAMILY[destination.version], destination.prefixlen, 0, 0, _MAIN, protocol, _NOWHERE, 0, 0
    )
    body = head + wire.attribute(_DST, destination.network_address.packed)
    return Message(_DELROUTE, Flag.ACK, body, f"delete route {destination}", frozenset({errno.ESRCH}))


def read(kernel: connection.Connection, version: int, *, protocol: int = PROTOCOL) -> list[InstalledRoute]:
    """Return the routes of the main table that ``protocol`` marks. Not for the hot path: it is a dump."""
    family = addresses.FAMILY[version]
    body = _INFO.pack(family, 0, 0, 0, _MAIN, protocol, 0, 0, 0)
    installed: list[InstalledRoute] = []
    try:
        answers = kernel.ask(Message(_GETROUTE, Flag.DUMP, body, "list routes"))
    except errors.AbsentError:  # a namespace that never had a route has no table
        return []
    for answer in answers:
        head = _INFO.unpack_from(answer.body)
        if head[4] != _MAIN or head[5] != protocol:
            continue
        parsed = wire.attributes(answer.body[_INFO.size :])
        installed.append(
            InstalledRoute(
                destination=parsed.get(_DST, bytes(addresses.BITS[version] // 8)),
                length=head[1],
                index=wire.parse_u32(parsed.get(_OIF, bytes(4))),
                gateway=parsed.get(_GATEWAY, b""),
                source=parsed.get(_PREFSRC, b""),
                metric=wire.parse_u32(parsed.get(_PRIORITY, bytes(4))),
                unreachable=head[7] == _UNREACHABLE,
            )
        )
    return installed
