"""ICMP echo requests that the far kernel answers: a path's state must not depend on the agent at its end.

An agent that restarts answers no probe for seconds, while its tunnel still forwards. Everything read here answers a
request of this very socket: the kernel sorts answers by the identifier that it gave the socket.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import Iterator

from fleetboard.model.addresses import Address

log = logging.getLogger(__name__)

_FREEBIND = 15  # IP_FREEBIND, ip(7); it applies to IPv6 sockets too
_HEADER = struct.Struct("!BBHHH")
_REQUEST = {4: 8, 6: 128}
_ANSWER = {4: 0, 6: 129}
_LARGEST = 1024


class Pinger:
    """A ping socket (icmp(7)) at one of the node's addresses."""

    def __init__(self, address: Address, opened: socket.socket) -> None:
        self.socket = opened
        self._version = address.version

    def send(self, address: Address, payload: bytes) -> None:
        """Send an echo request.

        Raises:
            OSError: the kernel cannot send it now.
        """
        # The kernel fills in checksum and identifier; the payload identifies the request.
        self.socket.sendto(_HEADER.pack(_REQUEST[self._version], 0, 0, 0, 0) + payload, (str(address), 0))

    def received(self) -> Iterator[tuple[bytes, Address]]:
        """Yield payload and sender of the answers in the socket's buffer, 256 at most."""
        for _ in range(256):
            try:
                datagram, source = self.socket.recvfrom(_LARGEST)
            except BlockingIOError:
                return
            except OSError as err:
                if err.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED):
                    continue
                raise
            if len(datagram) >= _HEADER.size and datagram[0] == _ANSWER[self._version]:
                yield datagram[_HEADER.size :], ipaddress.ip_address(source[0])


def open_pinger(address: Address) -> Pinger | None:
    """Open a ping socket; return None where the kernel gives none.

    For example, ``net.ipv4.ping_group_range`` of the pod may exclude this process' group.
    """
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if address.version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    try:
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    except OSError as err:
        log.warning(
            "could not open a ping socket: probes use UDP, and fail while the far agent restarts",
            extra={"address": str(address), "error": str(err)},
        )
        return None
    try:
        # The address may appear a moment after this socket.
        opened.setsockopt(socket.IPPROTO_IP, _FREEBIND, 1)
        opened.bind((str(address), 0))
    except OSError:
        opened.close()
        raise
    return Pinger(address, opened)
