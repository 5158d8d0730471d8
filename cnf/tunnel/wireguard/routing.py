"""The routes that lead to the tunnel's link, and the node's addresses that they name as source.

Invariant: only differences are written, and only the tunnel's own routes (by protocol number) are ever removed. The
routes to pods in the same table belong to the CNI server.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from cnf.netlink import addresses, connection, links, routes
from cnf.tunnel.plan.desired import DesiredRoute, RouteKind
from fleetboard.model.addresses import Address, Network

ROUTE_PROTOCOL = 113
"""Marks our routes (rtnetlink(7) leaves numbers above 4 to user space; none of iproute2's rt_protos has this one)."""


def ensure_addresses(kernel: connection.Connection, desired: Iterable[Address]) -> None:
    """Put the node's addresses on ``lo`` that are missing there.

    On a member's node the CNI server is their writer (``attach.wiring.plan_node``): it puts them before the first plan
    and at every change, so nothing is written here unless somebody removed an address, or the CNI server refused it.
    The relay has no CNI server, so there this is the writer. Neither removes an address.
    """
    held = addresses.read(kernel, links.LOOPBACK)
    kernel.send([addresses.put(links.LOOPBACK, address) for address in desired if address.packed not in held])


def ensure_routes(kernel: connection.Connection, link: links.Link, desired: Sequence[DesiredRoute]) -> bool:
    """Write what differs between our routes and ``desired``; return whether anything was written."""
    installed = dict(_read_routes(kernel, link))
    missing = [route for route in desired if installed.get(route.destination) != route]
    # Narrow ones first, one message each: a wide unreachable route must not cover a node's block for a moment, or for
    # longer if the kernel refuses the narrow one.
    for route in sorted(missing, key=lambda route: -route.destination.prefixlen):
        kernel.send([_route(link, route).put()])
    stale = installed.keys() - {route.destination for route in desired}
    kernel.send([routes.delete_any(destination, protocol=ROUTE_PROTOCOL) for destination in stale])
    return bool(missing or stale)


def _read_routes(kernel: connection.Connection, link: links.Link) -> Iterator[tuple[Network, DesiredRoute | None]]:
    for version in addresses.FAMILY:
        for route in routes.read(kernel, version, protocol=ROUTE_PROTOCOL):
            destination = ipaddress.ip_network((route.destination, route.length))
            if route.unreachable:
                yield destination, DesiredRoute(destination, RouteKind.UNREACHABLE)
            elif route.index == link.index:
                source = ipaddress.ip_address(route.source) if route.source else None
                yield destination, DesiredRoute(destination, RouteKind.TUNNEL, source)
            else:
                yield destination, None


def _route(link: links.Link, route: DesiredRoute) -> routes.Route:
    if route.kind is RouteKind.UNREACHABLE:
        return routes.Route(route.destination, protocol=ROUTE_PROTOCOL)
    # A gateway in name only: WireGuard looks at the packet's own destination. But where a packet leaves by the link it
    # came in by (leader, relay), the kernel sends redirects if the route back to its source has no gateway
    # (fib_validate_source). They use up the rate limit of the errors that matter, and only /proc/sys, which we may not
    # write, turns them off.
    gateway = route.destination.network_address if route.destination.version == 4 else None
    return routes.Route(
        route.destination, index=link.index, gateway=gateway, source=route.source, protocol=ROUTE_PROTOCOL
    )
