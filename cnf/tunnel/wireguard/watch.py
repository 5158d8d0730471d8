"""Notice that the tunnel's link came, went or changed: wireguard-go takes it away when it ends and makes a new one.

One invariant: a message that couldn't be read (the kernel's buffer overflowed) counts as a change.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator

_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_GROUP_LINK = 1
_IFLA_IFNAME = 3
_POLL_S = 0.5
_HEADER = struct.Struct("=IHHII")


def watch(name: str, on_change: Callable[[], None], stop: threading.Event) -> None:
    """Call ``on_change`` at each change of link ``name`` in this thread's namespace, until ``stop``."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, _GROUP_LINK))
        while not stop.is_set():
            readable, _, _ = select.select([netlink], [], [], _POLL_S)
            if readable and _concerns(netlink, name):
                on_change()


def _concerns(netlink: socket.socket, name: str) -> bool:
    try:
        return name in link_names(netlink.recv(65536))
    except OSError as err:
        if err.errno == errno.ENOBUFS:
            return True
        raise


def link_names(datagram: bytes) -> list[str]:
    """Return the names of the links that the RTM_NEWLINK and RTM_DELLINK messages of a datagram are about."""
    found: list[str] = []
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size:
            break
        if kind in (_RTM_NEWLINK, _RTM_DELLINK):
            found += [value.rstrip(b"\0").decode() for value in _names(datagram[offset + 32 : offset + length])]
        offset += (length + 3) & ~3
    return found


def _names(attributes: bytes) -> Iterator[bytes]:
    offset = 0
    while offset + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if length < 4:
            return
        if kind == _IFLA_IFNAME:
            yield attributes[offset + 4 : offset + length]
        offset += (length + 3) & ~3
