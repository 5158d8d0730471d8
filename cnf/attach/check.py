"""CHECK: compares what ADD created with what exists now.

Only our own interface, addresses and routes are compared. Later plugins of a chain and Multus may add others, and
remove default routes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cnf.attach import identity, ledger, plumber, pods, protocol, records, wiring
from cnf.attach.errors import CallRefusedError, Code
from cnf.attach.frames import Request
from cnf.attach.node_network import supply
from cnf.netlink import addresses, connection, errors, links, routes


@dataclasses.dataclass(frozen=True, slots=True)
class Checker:
    """Serves CHECK."""

    ledger: ledger.Ledger
    plumber: plumber.Plumber
    pods: pods.Pods
    supply: supply.Supply

    def check(self, call: protocol.Call, request: Request) -> None:
        """Compare the record, the previous result and the kernel.

        Raises:
            CallRefusedError: something differs; the message names the first difference.
        """
        if call.previous is None:
            raise CallRefusedError(Code.INVALID_CONFIG, "prevResult is missing: CHECK needs it")
        record, network = self.ledger.find(call.key), self.supply.network
        if record is None or network is None:
            raise _differs(f"no address is held for {call.interface} of container {call.container_id}")
        _check_previous(call, record, call.previous)
        near = self.plumber.find(identity.veth_name(*call.key))
        if near is None or not near.up:
            raise _differs(f"cnf's end {identity.veth_name(*call.key)} is {'down' if near else 'missing'}")
        pod = request.namespace or self.pods.open_unverified(call.netns)
        if pod is None:
            raise CallRefusedError(Code.INVALID_NETNS, f"CNI_NETNS {call.netns!r} can't be opened")
        try:
            with pod.connect() as inside:
                if pod.cookie != record.cookie and record.cookie:
                    raise _differs(f"CNI_NETNS {call.netns!r} is not the namespace that was attached")
                ends = wiring.plan_ends(record, network).at(near.index, record.index)
                _check_inside(record, ends, inside)
        except errors.NetlinkError as err:
            raise _differs(str(err)) from err
        finally:
            if request.namespace is None:
                pod.close()


def _differs(message: str) -> CallRefusedError:
    return CallRefusedError(Code.CHECK_FAILED, message)


def _check_previous(call: protocol.Call, record: records.Record, previous: Any) -> None:
    interfaces = previous.get("interfaces") or []
    at = next((i for i, interface in enumerate(interfaces) if _is_ours(interface, call)), None)
    if at is None:
        raise _differs(f"prevResult lists no interface {call.interface} in {call.netns}")
    stated = {str(ip.get("address", "")).partition("/")[0] for ip in previous.get("ips") or [] if _at(ip, at)}
    missing = set(record.addresses) - stated
    if missing:
        raise _differs(f"prevResult lacks {', '.join(sorted(missing))} of {call.interface}")


def _is_ours(interface: Any, call: protocol.Call) -> bool:
    if not isinstance(interface, dict):
        return False
    return interface.get("name") == call.interface and interface.get("sandbox") == call.netns


def _at(ip: Any, index: int) -> bool:
    return isinstance(ip, dict) and ip.get("interface") == index


def _check_inside(record: records.Record, ends: wiring.Ends, inside: connection.Connection) -> None:
    link = links.find(inside, record.interface)
    if link is None:
        raise _differs(f"interface {record.interface} is missing")
    for field, actual, expected in (
        ("kind", link.kind, "veth"),
        ("state", "up" if link.up else "down", "up"),
        ("MAC", link.mac, record.mac),
    ):
        if actual != expected:
            raise _differs(f"interface {record.interface} has {field} {actual}: expected {expected}")
    if link.mtu > ends.far.mtu:
        raise _differs(f"interface {record.interface} has MTU {link.mtu}: expected at most {ends.far.mtu}")
    held = addresses.read(inside, link.index)
    for pod, _ in ends.paths:
        if pod.packed not in held:
            raise _differs(f"interface {record.interface} lacks address {pod}")
    versions = {pod.version for pod, _ in ends.paths}
    installed = {(r.destination, r.length, r.gateway) for version in versions for r in routes.read(inside, version)}
    for route in wiring.fleet_routes(ends):
        gateway = route.gateway.packed if route.gateway else b""
        if (route.destination.network_address.packed, route.destination.prefixlen, gateway) not in installed:
            raise _differs(f"route to {route.destination} by {route.gateway} is missing in the pod")
