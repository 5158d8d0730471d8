"""The tunnel's link, routes and addresses in the kernel: only differences are written, and nothing of another's."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
from entering import inside
from netlab import Net, Nets

from cnf.netlink import connection, links
from cnf.netlink.connection import Connection
from cnf.tunnel import errors
from cnf.tunnel.plan.desired import DesiredRoute, RouteKind
from cnf.tunnel.wireguard import device, routing

pytestmark = pytest.mark.netns

LINK = "fleet0"
NODE, NODE_SIX = ip_address("10.113.4.0"), ip_address("fd00:1::")
FLEET, FLEET_SIX = ip_network("10.112.0.0/12"), ip_network("fd00::/32")
OWN, OTHER, OTHER_SIX = ip_network("10.113.4.0/26"), ip_network("10.113.8.0/22"), ip_network("fd00:2::/64")

PLAN = (
    DesiredRoute(FLEET, RouteKind.TUNNEL, NODE),
    DesiredRoute(OWN, RouteKind.UNREACHABLE),
    DesiredRoute(OTHER, RouteKind.TUNNEL, NODE),
    DesiredRoute(FLEET_SIX, RouteKind.UNREACHABLE),
    DesiredRoute(OTHER_SIX, RouteKind.TUNNEL, NODE_SIX),
)


@pytest.fixture
def net(nets: Nets) -> Net:
    made = nets.make()
    made.run("ip", "link", "add", LINK, "type", "bridge")
    return made


@pytest.fixture
def kernel(net: Net) -> Iterator[Connection]:
    with Connection(inside(net.name, connection.open_socket)) as opened:
        yield opened


def configured(kernel: Connection, *, mtu: int = 1360) -> links.Link:
    """Return the link as ``Tunnel`` leaves it, with the node's addresses in place."""
    routing.ensure_addresses(kernel, (NODE, NODE_SIX))
    link = links.find(kernel, LINK)
    assert link is not None
    device.configure(kernel, link, mtu=mtu)
    return link


def shown(net: Net) -> set[str]:
    """Return the tunnel's routes in iproute2's words."""
    lines = [
        line
        for family in ("-4", "-6")
        for line in net.run("ip", family, "route", "show", "table", "all", "proto", "113").splitlines()
    ]
    return {" ".join(line.split()) for line in lines}


def test_routes_are_as_planned_and_a_second_time_nothing_is_written(net: Net, kernel: Connection) -> None:
    link = configured(kernel)
    assert routing.ensure_routes(kernel, link, PLAN)
    assert shown(net) == {
        f"10.112.0.0/12 via 10.112.0.0 dev {LINK} src 10.113.4.0 onlink",
        "unreachable 10.113.4.0/26",
        f"10.113.8.0/22 via 10.113.8.0 dev {LINK} src 10.113.4.0 onlink",
        "unreachable fd00::/32 dev lo metric 1024 pref medium",
        f"fd00:2::/64 dev {LINK} src fd00:1:: metric 1024 pref medium",
    }
    assert not routing.ensure_routes(kernel, link, PLAN)


def test_a_route_that_changes_its_kind_is_replaced_and_one_that_is_not_wanted_goes(
    net: Net, kernel: Connection
) -> None:
    link = configured(kernel)
    routing.ensure_routes(kernel, link, PLAN)
    changed = (
        DesiredRoute(FLEET, RouteKind.UNREACHABLE),
        DesiredRoute(FLEET_SIX, RouteKind.TUNNEL, NODE_SIX),
        DesiredRoute(OTHER_SIX, RouteKind.UNREACHABLE),
    )
    assert routing.ensure_routes(kernel, link, changed)
    assert shown(net) == {
        "unreachable 10.112.0.0/12",
        f"fd00::/32 dev {LINK} src fd00:1:: metric 1024 pref medium",
        "unreachable fd00:2::/64 dev lo metric 1024 pref medium",
    }
    assert routing.ensure_routes(kernel, link, ())
    assert shown(net) == set()


def test_routes_of_others_stay(net: Net, kernel: Connection) -> None:
    link = configured(kernel)
    net.run("ip", "route", "add", "10.50.0.0/16", "dev", LINK, "proto", "112")
    routing.ensure_routes(kernel, link, PLAN)
    routing.ensure_routes(kernel, link, ())
    assert "10.50.0.0/16" in net.run("ip", "route", "show", "proto", "112")


def test_addresses_are_written_only_where_they_are_missing(net: Net, kernel: Connection) -> None:
    net.run("ip", "addr", "add", f"{NODE}/32", "dev", "lo", "valid_lft", "1000", "preferred_lft", "1000")
    routing.ensure_addresses(kernel, (NODE, NODE_SIX))
    held = net.run("ip", "-o", "addr", "show", "dev", "lo")
    assert "fd00:1::/128" in held
    assert "valid_lft forever" not in next(line for line in held.splitlines() if f"{NODE}/32" in line)


def test_a_link_gets_its_mtu_and_settings_once(net: Net, kernel: Connection) -> None:
    link = configured(kernel, mtu=1300)
    after = links.find(kernel, LINK)
    assert after is not None
    assert (after.index, after.mtu, after.up) == (link.index, 1300, True)
    settings = links.read_inet(kernel, link.index)
    desired = {links.FORWARDING: 1, links.ACCEPT_REDIRECTS: 0, links.SEND_REDIRECTS: 0, links.RP_FILTER: 2}
    assert {number: settings[number] for number in desired} == desired
    assert net.run("cat", f"/proc/sys/net/ipv4/conf/{LINK}/rp_filter").strip() == "2"


def test_an_unknown_kind_is_an_answer_and_a_known_name_makes_no_second_link(kernel: Connection) -> None:
    assert not device.create(kernel, "fbt-kind", "fbtnosuchkind", mtu=1280)
    assert device.create(kernel, LINK, "bridge", mtu=1280)


def test_what_the_kernel_refuses_is_an_error_of_the_tunnel(net: Net, kernel: Connection) -> None:
    link = configured(kernel)
    net.run("ip", "link", "del", LINK)

    def write() -> None:
        with device.open_rtnetlink() as rtnetlink:
            routing.ensure_routes(rtnetlink, link, PLAN)

    with pytest.raises(errors.DeviceError, match="No such device"):
        inside(net.name, write)
