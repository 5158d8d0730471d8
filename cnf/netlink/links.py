"""Interfaces: veth pairs across namespaces, their settings, and which exist (include/uapi/linux/if_link.h).

Functions that take a ``Connection`` ask the kernel. All others build messages and change nothing.
"""

from __future__ import annotations

import dataclasses
import errno
import struct
from collections.abc import Mapping

from cnf.netlink import connection, errors, wire
from cnf.netlink.wire import Flag, Message

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19

_INFO = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, change."""

_ADDRESS, _IFNAME, _MTU, _LINK = 1, 3, 4, 5
_LINKINFO, _IFALIAS, _AF_SPEC, _GROUP, _NET_NS_FD, _EXT_MASK = 18, 20, 26, 27, 28, 29
_NUM_TX_QUEUES, _NUM_RX_QUEUES = 31, 32
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_INET_CONF, _INET6_ADDR_GEN_MODE = 1, 8
_AF_INET, _AF_INET6 = 2, 10
_UP = 1
_SKIP_STATISTICS = 8
_ADDR_GEN_NONE = 1

GROUP = 1
"""RTMGRP_LINK: the multicast group of notices about interfaces."""

LOOPBACK = 1
"""Index of ``lo`` in every namespace."""

# include/uapi/linux/ip.h: per-device settings as IFLA_INET_CONF numbers them.
FORWARDING, ACCEPT_REDIRECTS, SEND_REDIRECTS, RP_FILTER = 1, 4, 6, 8


@dataclasses.dataclass(frozen=True, slots=True)
class VethEnd:
    """One end of a veth pair to create. With ``index`` 0 the kernel chooses the number."""

    name: str
    mac: str
    mtu: int
    index: int = 0

    def attributes(self) -> bytes:
        """Encode the attributes that both ends have."""
        return (
            wire.text(_IFNAME, self.name)
            + wire.attribute(_ADDRESS, pack_mac(self.mac))
            + wire.u32(_MTU, self.mtu)
            # One queue: one softirq handles a pod's traffic, and each further queue costs memory per pod.
            + wire.u32(_NUM_TX_QUEUES, 1)
            + wire.u32(_NUM_RX_QUEUES, 1)
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel reports it."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    alias: str
    peer_index: int


def pack_mac(mac: str) -> bytes:
    """Encode a MAC address written with colons."""
    return bytes.fromhex(mac.replace(":", ""))


def create_veth(near: VethEnd, far: VethEnd, *, namespace: int) -> Message:
    """Return the message that creates a veth pair.

    ``near`` is in the socket's namespace, ``far`` in that of the descriptor ``namespace``. It is atomic: on EEXIST or
    EBUSY (an index is taken) nothing is left. The kernel uses the far end's index only if the near end has one too.
    """
    peer = wire.attribute(
        _VETH_PEER, _INFO.pack(0, 0, far.index, 0, 0) + far.attributes() + wire.u32(_NET_NS_FD, namespace)
    )
    body = (
        _INFO.pack(0, 0, near.index, 0, 0)
        + near.attributes()
        + wire.nested(_LINKINFO, wire.text(_INFO_KIND, "veth"), wire.nested(_INFO_DATA, peer))
    )
    return Message(_NEWLINK, Flag.ACK | Flag.CREATE | Flag.EXCLUSIVE, body, f"create veth {near.name} - {far.name}")


def create(name: str, kind: str, *, mtu: int) -> Message:
    """Return the message that makes an interface of a kind that needs no further data.

    An interface of that name is fine as it is.
    """
    body = (
        _INFO.pack(0, 0, 0, 0, 0)
        + wire.text(_IFNAME, name)
        + wire.u32(_MTU, mtu)
        + wire.nested(_LINKINFO, wire.text(_INFO_KIND, kind))
    )
    flags = Flag.ACK | Flag.CREATE | Flag.EXCLUSIVE
    return Message(_NEWLINK, flags, body, f"create {kind} {name}", frozenset({errno.EEXIST}))


def _set(
    index: int, payload: bytes, action: str, *, up: bool = False, tolerate: frozenset[int] = frozenset()
) -> Message:
    flags = _UP if up else 0
    return Message(_SETLINK, Flag.ACK, _INFO.pack(0, 0, index, flags, flags) + payload, action, tolerate)


def set_up(index: int, *, alias: str | None = None) -> Message:
    """Return the message that brings an interface up and, when ``alias`` is given, tags it."""
    payload = b"" if alias is None else wire.attribute(_IFALIAS, alias.encode())
    return _set(index, payload, f"bring up interface {index}", up=True)


def set_mtu(index: int, mtu: int) -> Message:
    """Return the message that changes an interface's MTU."""
    return _set(index, wire.u32(_MTU, mtu), f"set MTU {mtu} of interface {index}")


def set_inet(index: int, settings: Mapping[int, int]) -> Message:
    """Return the message that sets IPv4 per-device settings (``FORWARDING``, ...).

    It needs no /proc/sys, which is read-only in a plain pod.
    """
    conf = wire.nested(_INET_CONF, *(wire.u32(number, value) for number, value in settings.items()))
    return _set(index, wire.nested(_AF_SPEC, wire.nested(_AF_INET, conf)), f"set IPv4 of interface {index}")


def set_no_link_local(index: int) -> Message:
    """Return the message that keeps the kernel from giving an interface an IPv6 link-local address.

    Send it before the interface is up. A host without IPv6 answers EAFNOSUPPORT; there is no such address then.
    """
    conf = wire.nested(_AF_INET6, wire.u8(_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE))
    tolerate = frozenset({errno.EAFNOSUPPORT, errno.EINVAL})
    return _set(index, wire.nested(_AF_SPEC, conf), f"set IPv6 of interface {index}", tolerate=tolerate)


def set_group(name: str, group: int) -> Message:
    """Return the message that puts an interface, if it exists, into a group for ``delete_group``."""
    body = _INFO.pack(0, 0, 0, 0, 0) + wire.text(_IFNAME, name) + wire.u32(_GROUP, group)
    return Message(_SETLINK, Flag.ACK, body, f"put {name} into group {group}", frozenset({errno.ENODEV}))


def delete(name: str) -> Message:
    """Return the message that deletes an interface if it exists; of a veth pair, both ends."""
    body = _INFO.pack(0, 0, 0, 0, 0) + wire.text(_IFNAME, name)
    return Message(_DELLINK, Flag.ACK, body, f"delete interface {name}", frozenset({errno.ENODEV}))


def delete_group(group: int) -> Message:
    """Return the message that deletes all interfaces of a group at once.

    The kernel waits once for its readers, not for each interface.
    """
    body = _INFO.pack(0, 0, 0, 0, 0) + wire.u32(_GROUP, group)
    return Message(_DELLINK, Flag.ACK, body, f"delete interfaces of group {group}", frozenset({errno.ENODEV}))


def find(kernel: connection.Connection, name: str) -> Link | None:
    """Return the interface of that name; None if it doesn't exist."""
    body = _INFO.pack(0, 0, 0, 0, 0) + wire.text(_IFNAME, name) + wire.u32(_EXT_MASK, _SKIP_STATISTICS)
    try:
        answers = kernel.ask(Message(_GETLINK, Flag(0), body, f"look up interface {name}"))
    except errors.AbsentError:
        return None
    return _parse(answers[0].body)


def read_inet(kernel: connection.Connection, index: int) -> dict[int, int]:
    """Return an interface's IPv4 per-device settings, by the numbers that ``set_inet`` takes.

    Raises:
        AbsentError: the interface is gone.
    """
    body = _INFO.pack(0, 0, index, 0, 0) + wire.u32(_EXT_MASK, _SKIP_STATISTICS)
    answers = kernel.ask(Message(_GETLINK, Flag(0), body, f"read IPv4 of interface {index}"))
    by_family = wire.attributes(wire.attributes(answers[0].body[_INFO.size :]).get(_AF_SPEC, b""))
    values = wire.attributes(by_family.get(_AF_INET, b"")).get(_INET_CONF, b"")
    return {number: value for number, (value,) in enumerate(struct.iter_unpack("=I", values), start=1)}


def list_all(*, kind: str = "") -> Message:
    """Return the question for all interfaces, or for those of one ``kind`` if the kernel filters by it."""
    body = _INFO.pack(0, 0, 0, 0, 0) + wire.u32(_EXT_MASK, _SKIP_STATISTICS)
    if kind:
        body += wire.nested(_LINKINFO, wire.attribute(_INFO_KIND, kind.encode()))
    return Message(_GETLINK, Flag.DUMP, body, "list interfaces")


def read(kernel: connection.Connection, *, kind: str = "") -> list[Link]:
    """Return all interfaces, or those of one ``kind``. It is a dump, so not for the hot path.

    The list is a hint: it may be torn while interfaces are created and deleted. Look up by ``find`` an interface that
    it lacks.
    """
    all_links = (_parse(answer.body) for answer in kernel.ask(list_all(kind=kind), allow_torn=True))
    return [link for link in all_links if not kind or link.kind == kind]


def changed_names(datagram: bytes) -> list[str]:
    """Return the interfaces that the RTM_NEWLINK and RTM_DELLINK notices of a datagram are about."""
    bodies = (notice.body for notice in wire.answers(datagram) if notice.type in (_NEWLINK, _DELLINK))
    attributes = (wire.attributes(body[_INFO.size :]) for body in bodies)
    return [wire.parse_string(notice[_IFNAME]) for notice in attributes if _IFNAME in notice]


def _parse(body: bytes) -> Link:
    _, _, index, flags, _ = _INFO.unpack_from(body)
    attributes = wire.attributes(body[_INFO.size :])
    return Link(
        index=index,
        name=wire.parse_string(attributes.get(_IFNAME, b"")),
        kind=wire.parse_string(wire.attributes(attributes.get(_LINKINFO, b"")).get(_INFO_KIND, b"")),
        mac=attributes.get(_ADDRESS, b"").hex(":"),
        mtu=wire.parse_u32(attributes.get(_MTU, bytes(4))),
        up=bool(flags & _UP),
        alias=wire.parse_string(attributes.get(_IFALIAS, b"")),
        peer_index=wire.parse_u32(attributes.get(_LINK, bytes(4))),
    )
