"""The kernel's side of the tunnel: its link, the node's address on ``lo``, and its routes.

One invariant: only differences are written, and only our own routes (by protocol number) are ever removed; the routes
to pods in the same table belong to the CNI server.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pyroute2
from pyroute2.netlink import exceptions

from cnf.tunnel import errors
from cnf.tunnel.plan.wanted import RouteKind, WantedRoute
from fleetboard.model.addresses import Address, Network

ROUTE_PROTOCOL = 113
"""Marks our routes (rtnetlink(7) leaves numbers above 4 to user space; none of iproute2's rt_protos has this one)."""

_UP = 0x1
_RTN_UNREACHABLE = 7
_ONLINK = 0x4
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
# Index of each setting in the kernel's enum ipv4_devconf, and what the tunnel needs: forward between peers and pods;
# loose reverse-path check, since pods' addresses arrive by the same link that others leave by; no redirects.
DEVICE_SETTINGS = {"forwarding": (1, 1), "accept_redirects": (4, 0), "send_redirects": (6, 0), "rp_filter": (8, 2)}


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel has it."""

    index: int
    kind: str
    mtu: int
    up: bool
    settings: dict[str, int]


class Netlink:
    """One rtnetlink socket, opened for one operation in the caller's network namespace."""

    def __init__(self, ip: pyroute2.IPRoute) -> None:
        self._ip = ip

    def find(self, name: str) -> Link | None:
        """Return the link of that name, if it is there."""
        try:
            found = list(self._ip.link("get", ifname=name))
        except exceptions.NetlinkError as err:
            if err.code == errno.ENODEV:
                return None
            raise _refused(f"read link {name}", err) from err
        return _link(found[0]) if found else None

    def create(self, name: str, kind: str, *, mtu: int) -> bool:
        """Make a link; return False where the kernel doesn't know that kind.

        Raises:
            DeviceError: refused for another reason.
        """
        try:
            self._ip.link("add", ifname=name, kind=kind, mtu=mtu)
        except exceptions.NetlinkError as err:
            if err.code in (errno.EOPNOTSUPP, errno.ENOENT, errno.EPROTONOSUPPORT):
                return False
            if err.code != errno.EEXIST:
                raise _refused(f"make link {name} of kind {kind}", err) from err
        return True

    def delete(self, name: str) -> None:
        """Delete a link; absent is well."""
        link = self.find(name)
        if link is not None:
            with _named(f"delete link {name}", ignore=(errno.ENODEV,)):
                self._ip.link("del", index=link.index)

    def ensure_mtu(self, link: Link, mtu: int) -> None:
        """Set the MTU when it differs."""
        if link.mtu != mtu:
            with _named(f"set MTU {mtu}"):
                self._ip.link("set", index=link.index, mtu=mtu)

    def ensure_up(self, link: Link) -> None:
        """Bring the link up."""
        if not link.up:
            with _named("bring the link up"):
                self._ip.link("set", index=link.index, state="up")

    def ensure_address(self, address: Address) -> None:
        """Put an address of the node on ``lo``."""
        with _named(f"put address {address} on lo", ignore=(errno.EEXIST,)):
            index = self._ip.link("get", ifname="lo")[0]["index"]
            self._ip.addr("add", index=index, address=str(address), prefixlen=address.max_prefixlen)

    def ensure_routes(self, link: Link, wanted: Sequence[WantedRoute]) -> bool:
        """Make our routes be ``wanted``; return whether anything was written."""
        there = dict(_read_routes(self._ip, link))
        missing = [route for route in wanted if there.get(route.destination) != route]
        # The narrow ones first: a wide unreachable route must not cover a node's block for a moment.
        for route in sorted(missing, key=lambda route: -route.destination.prefixlen):
            with _named(f"write route {route.destination}"):
                self._ip.route("replace", **_route(link, route))
        gone = there.keys() - {route.destination for route in wanted}
        for destination in gone:
            with _named(f"remove route {destination}", ignore=(errno.ESRCH,)):
                self._ip.route("del", dst=str(destination), proto=ROUTE_PROTOCOL)
        return bool(missing or gone)


@contextlib.contextmanager
def open_netlink() -> Iterator[Netlink]:
    """Open a socket for one operation: shared by threads, pyroute2 would keep one more for each."""
    with pyroute2.IPRoute(ext_ack=True, strict_check=True) as ip:
        yield Netlink(ip)


def ensure_settings(link: Link) -> None:
    """Set the link's own IPv4 settings where they differ: /proc/sys is read-only without privilege."""
    values = {index: value for name, (index, value) in DEVICE_SETTINGS.items() if link.settings.get(name) != value}
    if not values:
        return
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(5.0)
        netlink.sendto(render_settings(link.index, values), (0, 0))
        answer = netlink.recv(8192)
    status = -struct.unpack_from("=i", answer, 16)[0]
    if status:
        raise errors.DeviceError(f"cannot set forwarding of link {link.index}: errno {status}")


def render_settings(index: int, values: dict[int, int]) -> bytes:
    """Return an RTM_SETLINK with IFLA_AF_SPEC > AF_INET > IFLA_INET_CONF, which pyroute2 can't encode."""
    conf = b"".join(_attribute(setting, struct.pack("=I", value)) for setting, value in sorted(values.items()))
    body = _attribute(26 | 0x8000, _attribute(socket.AF_INET | 0x8000, _attribute(1 | 0x8000, conf)))
    header = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
    return struct.pack("=IHHII", 16 + len(header) + len(body), 19, 0x5, 1, 0) + header + body


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _link(message: Any) -> Link:
    specific = message.get_attr("IFLA_AF_SPEC")
    settings = specific.get_attr("AF_INET") if specific is not None else None
    kind = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""
    up = bool(message["flags"] & _UP)
    return Link(message["index"], kind, message.get_attr("IFLA_MTU"), up, dict(settings or {}))


def _read_routes(ip: pyroute2.IPRoute, link: Link) -> Iterator[tuple[Network, WantedRoute | None]]:
    for family in _FAMILIES:
        for message in _dump_routes(ip, family):
            if message["proto"] != ROUTE_PROTOCOL:
                continue
            text = message.get_attr("RTA_DST") or ("0.0.0.0" if family == socket.AF_INET else "::")
            destination: Network = ipaddress.ip_network(f"{text}/{message['dst_len']}")
            yield destination, _parse_route(message, link, destination)


def _dump_routes(ip: pyroute2.IPRoute, family: int) -> list[Any]:
    for _ in range(5):
        try:
            return list(ip.route("dump", family=family, proto=ROUTE_PROTOCOL))
        except exceptions.NetlinkDumpInterrupted:
            continue
        except exceptions.NetlinkError as err:
            raise _refused("read routes", err) from err
    raise errors.DeviceError("the routes changed under five readings in a row")


def _parse_route(message: Any, link: Link, destination: Network) -> WantedRoute | None:
    if message["type"] == _RTN_UNREACHABLE:
        return WantedRoute(destination, RouteKind.UNREACHABLE)
    if message.get_attr("RTA_OIF") != link.index:
        return None
    source = message.get_attr("RTA_PREFSRC")
    return WantedRoute(destination, RouteKind.TUNNEL, ipaddress.ip_address(source) if source else None)


def _route(link: Link, route: WantedRoute) -> dict[str, Any]:
    fields: dict[str, Any] = {"dst": str(route.destination), "proto": ROUTE_PROTOCOL}
    if route.kind is RouteKind.UNREACHABLE:
        return fields | {"type": "unreachable"}
    if route.source is not None:
        fields["prefsrc"] = str(route.source)
    if route.destination.version == 4:
        # A gateway in name only: WireGuard looks at the packet's own destination. But where a packet leaves by the link
        # it came in by (leader, hub), the kernel sends redirects if the way back to its source is a route without a
        # gateway (fib_validate_source), they use up the rate limit of the errors that matter, and only
        # /proc/sys, which we may not write, turns them off.
        fields |= {"gateway": str(route.destination.network_address), "flags": _ONLINK}
    return fields | {"oif": link.index}


@contextlib.contextmanager
def _named(action: str, *, ignore: tuple[int, ...] = ()) -> Iterator[None]:
    try:
        yield
    except exceptions.NetlinkError as err:
        if err.code not in ignore:
            raise _refused(action, err) from err


def _refused(action: str, err: exceptions.NetlinkError) -> errors.DeviceError:
    return errors.DeviceError(f"the kernel refused to {action}: {err.args[-1]} (errno {err.code})")
