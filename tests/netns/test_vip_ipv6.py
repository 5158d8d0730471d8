"""IPv6 virtual addresses are spread and refused as IPv4 ones are, side by side with them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest
import vip_topology as topology
from vip_topology import Node, frontend, vips

from cnf.vip.firewall import NodeFirewall
from cnf.vip.table import Backend, BackendAddress

FLEET = ipaddress.ip_network("fd00:100::/24")
VIPS = ipaddress.ip_network("fd00:112::/112")
OWN = ipaddress.ip_network("fd00:113::/48")
NODE = "fd00:113::"
CLIENT = "fd00:113::2"
SERVERS = ("fd00:113::10", "fd00:113::11")
VIP = "fd00:112::7"
TCP, UDP = frontend(80, vip=VIP), frontend(53, "udp", vip=VIP)

pytestmark = pytest.mark.netns


def backend(port: int, *servers: str) -> Backend:
    return Backend(tuple(BackendAddress(ipaddress.ip_address(server), port) for server in servers))


def dual_stack_firewall() -> NodeFirewall:
    four = topology.firewall()
    return NodeFirewall(
        fleet=(*four.fleet, FLEET),
        vips=(*four.vips, VIPS),
        own=(*four.own, OWN),
        node_addresses=(*four.node_addresses, ipaddress.ip_address(NODE)),
    )


@pytest.fixture(scope="module")
def echo() -> Iterator[topology.Echo]:
    with topology.running() as echo:
        for key in ("net.ipv6.conf.all.forwarding=1", "net.ipv6.icmp.ratelimit=0"):
            topology.run("ip", "netns", "exec", topology.name("cnf"), "sysctl", "-qw", key)
        topology.ip("cnf", f"-6 addr add {NODE}/128 dev lo")
        topology.ip("cnf", f"-6 route add {FLEET} dev fleet0 src {NODE}")
        for namespace, interface, addresses in (("pods", "fvclient", (CLIENT,)), ("servers", "fvserver", SERVERS)):
            topology.ip("cnf", f"-6 addr add fe80::1/64 dev {interface} nodad")
            for address in addresses:
                topology.ip(namespace, f"-6 addr add {address}/128 dev net1 nodad")
                topology.ip("cnf", f"-6 route add {address}/128 dev {interface} src {NODE}")
            topology.ip(namespace, "-6 route add default via fe80::1 dev net1")
        for server in SERVERS:
            echo.listen("servers", server, 8080)
            echo.listen("servers", server, 8053, udp=True)
        echo.listen("servers", topology.SERVERS[0], 8080)
        echo.listen("pods", CLIENT, 8080)
        yield echo


def test_both_families_are_spread(echo: topology.Echo) -> None:
    node = Node(dual_stack_firewall())
    four = (frontend(), topology.backend(topology.SERVERS[:1]))
    node.sync(vips((TCP, backend(8080, *SERVERS)), (UDP, backend(8053, *SERVERS)), four))

    assert {topology.ask(CLIENT, VIP).server for _ in range(40)} == set(SERVERS)
    with topology.udp_socket(CLIENT) as sock:
        assert topology.exchange(sock, VIP, 53).server in SERVERS
    assert topology.ask(topology.CLIENT, topology.VIP).server == topology.SERVERS[0]


def test_no_endpoint_is_a_refusal_at_once(echo: topology.Echo) -> None:
    node = Node(dual_stack_firewall())
    node.sync(vips((TCP, backend(8080)), (UDP, backend(8053))))

    with pytest.raises(ConnectionRefusedError):
        topology.ask_at_once(CLIENT, VIP)
    with topology.udp_socket(CLIENT, timeout_s=topology.AT_ONCE_S) as sock, pytest.raises(ConnectionRefusedError):
        topology.at_once(lambda: topology.exchange(sock, VIP, 53))


def test_a_client_that_is_its_own_endpoint_is_answered(echo: topology.Echo) -> None:
    node = Node(dual_stack_firewall())
    node.sync(vips((TCP, backend(8080, CLIENT)), hairpin=CLIENT))

    answer = topology.ask(CLIENT, VIP)

    assert (answer.server, answer.client) == (CLIENT, NODE)
