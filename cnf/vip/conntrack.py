"""Frees UDP flows from endpoints that are gone.

A tracked flow keeps its endpoint whatever the maps say. TCP ends by itself: the dead endpoint's node resets it, or its
retransmissions end. The packets of a UDP client that keeps its source port would be lost for as long as it sends.
Invariant: a call deletes only flows to the frontends and ranges that it names, and only those that no target answers.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping, Sequence

from cnf.netlink import connection, wire
from cnf.netlink import errors as netlink_errors
from cnf.vip import errors, tracking
from cnf.vip.table import Backend, BackendAddress, Frontend, VipTable
from fleetboard.model.addresses import Network

_IS_UDP = tracking.protocol_bytes(socket.IPPROTO_UDP)


def stale_udp(old: VipTable, new: VipTable) -> dict[Frontend, frozenset[BackendAddress]]:
    """Return the UDP frontends that lost a target between ``old`` and ``new``, each with its current targets."""
    lost: dict[Frontend, frozenset[BackendAddress]] = {}
    for frontend, before in old.backends.items():
        if frontend.protocol != "udp":
            continue
        after = new.backends.get(frontend, Backend(()))
        if after is not before and not set(before.targets) <= set(after.targets):
            lost[frontend] = frozenset(after.targets)
    return lost


def udp_targets(table: VipTable) -> dict[Frontend, frozenset[BackendAddress]]:
    """Return all UDP frontends with their targets: for a start, when the former table is unknown."""
    return {
        frontend: frozenset(backend.targets)
        for frontend, backend in table.backends.items()
        if frontend.protocol == "udp"
    }


def evict(answering: Mapping[Frontend, frozenset[BackendAddress]], ranges: Sequence[Network] = ()) -> int:
    """Delete the UDP flows to ``answering``'s frontends whose endpoint isn't among the frontend's targets; count them.

    Within ``ranges``, flows to an address and port that is no frontend of ``answering`` are deleted too: nothing
    answers them. Works in the calling thread's network namespace.

    Raises:
        ConntrackError: the kernel refused; what was deleted stays deleted.
    """
    versions = {frontend.address.version for frontend in answering} | {network.version for network in ranges}
    if not versions:
        return 0
    try:
        with tracking.connect() as link:
            deletions = [
                message for version in sorted(versions) for message in _deletions(link, version, answering, ranges)
            ]
            link.send(deletions)
    except (netlink_errors.NetlinkError, OSError) as err:
        raise errors.ConntrackError(f"stale UDP flows can't be deleted: {err}") from err
    return len(deletions)


def _deletions(
    link: connection.Connection,
    version: int,
    answering: Mapping[Frontend, frozenset[BackendAddress]],
    ranges: Sequence[Network],
) -> Iterator[wire.Message]:
    head = tracking.head(version)
    addresses = {frontend.address.packed for frontend in answering}
    # Flows through virtual addresses are translated.
    for answer in link.ask(tracking.dump(version, status=tracking.DST_NAT)):
        if _IS_UDP not in answer.body:
            continue
        # Checked before parsing: of tens of thousands of flows a change concerns few.
        if not ranges and tracking.peek_destination(answer.body, version) not in addresses:
            continue
        entry = wire.attributes(answer.body[len(head) :])
        flow = _flow(entry, version)
        if flow is None or not _is_stale(*flow, answering, ranges):
            continue
        # The id excludes a younger entry of the same addresses.
        body = (
            head
            + wire.attribute(tracking.TUPLE_ORIG | tracking.NESTED, entry[tracking.TUPLE_ORIG])
            + wire.attribute(tracking.ID, entry[tracking.ID])
        )
        action = "delete a tracked connection"
        yield wire.Message(tracking.DELETE, wire.Flag.REQUEST | wire.Flag.ACK, body, action, frozenset({errno.ENOENT}))


def _is_stale(
    frontend: Frontend,
    target: BackendAddress,
    answering: Mapping[Frontend, frozenset[BackendAddress]],
    ranges: Sequence[Network],
) -> bool:
    targets = answering.get(frontend)
    if targets is not None:
        return target not in targets
    return any(frontend.address in network for network in ranges)


def _flow(entry: Mapping[int, bytes], version: int) -> tuple[Frontend, BackendAddress] | None:
    """Return where a UDP client sends, and what answers it."""
    if not {tracking.TUPLE_ORIG, tracking.TUPLE_REPLY, tracking.ID} <= entry.keys():
        return None
    asked = tracking.parse_flow(entry[tracking.TUPLE_ORIG], version)
    answered = tracking.parse_flow(entry[tracking.TUPLE_REPLY], version)
    if asked is None or answered is None or asked.protocol != socket.IPPROTO_UDP:
        return None
    return (
        Frontend(asked.destination.parse_address(), "udp", asked.destination.port_number),
        BackendAddress(answered.source.parse_address(), answered.source.port_number),
    )
