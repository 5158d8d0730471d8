"""Frees UDP flows from endpoints that are gone.

A tracked flow keeps its endpoint whatever the maps say. TCP ends by itself (the dead endpoint's node resets it, or
its retransmissions end); a UDP client that keeps its source port would be sent to nobody for as long as it sends. One
invariant: only flows of the frontends named in a call are touched, and of those only the ones no target answers.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator, Mapping

from cnf.netlink import connection, wire
from cnf.netlink import errors as netlink_errors
from cnf.vip import errors
from cnf.vip.table import Backend, Frontend, Target, VipTable
from fleetboard.model.addresses import Address

_NETLINK_NETFILTER = 12
_GET = 0x101
_DELETE = 0x102
_TUPLE_ORIG = 1
_TUPLE_REPLY = 2
_ID = 12
_NESTED = 0x8000
_IP, _PROTO = 1, 2
_SOURCE = {4: 1, 6: 3}
_DESTINATION = {4: 2, 6: 4}
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}

_IS_UDP = wire.u8(_NUMBER, socket.IPPROTO_UDP)[:5]
"""The protocol attribute of a UDP tuple as it stands in an entry: tells most others apart before parsing them."""


def stale_udp(old: VipTable, new: VipTable) -> dict[Frontend, frozenset[Target]]:
    """Return the UDP frontends that lost a target from ``old`` to ``new``, each with the targets it has now."""
    lost: dict[Frontend, frozenset[Target]] = {}
    for frontend, before in old.backends.items():
        if frontend.protocol != "udp":
            continue
        after = new.backends.get(frontend, Backend(()))
        if after is not before and not set(before.targets) <= set(after.targets):
            lost[frontend] = frozenset(after.targets)
    return lost


def udp_targets(table: VipTable) -> dict[Frontend, frozenset[Target]]:
    """Return all UDP frontends with their targets: for a start, when what was there before is unknown."""
    return {
        frontend: frozenset(backend.targets)
        for frontend, backend in table.backends.items()
        if frontend.protocol == "udp"
    }


def evict(answering: Mapping[Frontend, frozenset[Target]]) -> int:
    """Delete the UDP flows to ``answering``'s frontends whose endpoint isn't among the targets given; count them.

    Works in the network namespace of the calling thread.

    Raises:
        ConntrackError: the kernel refused; what was deleted stays deleted.
    """
    if not answering:
        return 0
    versions = {frontend.address.version for frontend in answering}
    try:
        with connection.Connection(_open_socket()) as link:
            deletions = [message for version in sorted(versions) for message in _deletions(link, version, answering)]
            link.send(deletions)
    except (netlink_errors.NetlinkError, OSError) as err:
        raise errors.ConntrackError(f"stale UDP flows can't be deleted: {err}") from err
    return len(deletions)


def _open_socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)


def _deletions(
    link: connection.Connection, version: int, answering: Mapping[Frontend, frozenset[Target]]
) -> Iterator[wire.Message]:
    head = struct.pack(">BBH", _FAMILY[version], 0, 0)
    question = wire.Message(_GET, wire.Flag.REQUEST | wire.Flag.DUMP, head, "list tracked connections")
    for answer in link.ask(question):
        if _IS_UDP not in answer.body:
            continue
        entry = wire.attributes(answer.body[len(head) :])
        flow = _flow(entry, version)
        if flow is None or flow[1] in answering.get(flow[0], (flow[1],)):
            continue
        # With the id the entry is that one, not a younger one of the same addresses.
        body = head + wire.attribute(_TUPLE_ORIG | _NESTED, entry[_TUPLE_ORIG]) + wire.attribute(_ID, entry[_ID])
        action = "delete a tracked connection"
        yield wire.Message(_DELETE, wire.Flag.REQUEST | wire.Flag.ACK, body, action, frozenset({errno.ENOENT}))


def _flow(entry: Mapping[int, bytes], version: int) -> tuple[Frontend, Target] | None:
    """Return where a UDP client sends and who answers it."""
    if not {_TUPLE_ORIG, _TUPLE_REPLY, _ID} <= entry.keys():
        return None
    protocol, address, port = _end(entry[_TUPLE_ORIG], _DESTINATION[version], _DESTINATION_PORT)
    _, answerer, answerer_port = _end(entry[_TUPLE_REPLY], _SOURCE[version], _SOURCE_PORT)
    if protocol != socket.IPPROTO_UDP:
        return None
    return Frontend(address, "udp", port), Target(answerer, answerer_port)


def _end(flow: bytes, address_kind: int, port_kind: int) -> tuple[int, Address, int]:
    """Return protocol number, address and port of one end of a tuple."""
    parts = wire.attributes(flow)
    protocol = wire.attributes(parts[_PROTO])
    address = ipaddress.ip_address(wire.attributes(parts[_IP])[address_kind])
    port = int.from_bytes(protocol.get(port_kind, b""), "big")
    return protocol[_NUMBER][0], address, port
