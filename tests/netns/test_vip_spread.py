"""Clients reach a virtual address' endpoints, as evenly as the slots say, whatever happens to the endpoints."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator

import pytest
import vip_topology as topology
from vip_topology import CLIENT, CLIENTS, SERVERS, VIP, Node, backend, frontend, vips

from cnf.vip import slots
from cnf.vip.table import Backend, BackendAddress

MANY = 9000
"""First of the ports that make three servers into ninety endpoints."""

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]  # hundreds of asks, one after the other


@pytest.fixture(scope="module")
def echo() -> Iterator[topology.Echo]:
    with topology.serving() as echo:
        for server in SERVERS:
            for number in range(30):
                echo.listen("servers", server, MANY + number)
        yield echo


@pytest.fixture
def node(echo: topology.Echo) -> Node:
    node = Node()
    node.sync(vips())
    return node


def chi_square(seen: Counter[str], shares: Counter[str]) -> float:
    requests, slots_in_all = sum(seen.values()), sum(shares.values())
    expected = {server: requests * count / slots_in_all for server, count in shares.items()}
    return sum((seen[server] - expected[server]) ** 2 / expected[server] for server in shares)


def test_connections_spread_over_three_endpoints_as_their_slots_do(node: Node) -> None:
    node.sync(vips((frontend(), backend(SERVERS))))

    seen = Counter(topology.ask(CLIENT, VIP).server for _ in range(600))

    shares = Counter(owner.split()[0] for owner in slots.assign(tuple(f"{server} . 8080" for server in SERVERS)))
    assert set(seen) == set(SERVERS)
    assert chi_square(seen, shares) < 20.5, seen  # 2 degrees of freedom: one run in 28 000 is worse


def test_the_server_sees_the_clients_own_address(node: Node) -> None:
    node.sync(vips((frontend(), backend(SERVERS))))

    assert {topology.ask(client, VIP).client for client in CLIENTS} == set(CLIENTS)


def test_one_client_address_stays_with_one_endpoint_under_affinity(node: Node) -> None:
    node.sync(vips((frontend(), backend(SERVERS, sticky=True))))

    seen = {client: {topology.ask(client, VIP).server for _ in range(20)} for client in CLIENTS}

    assert all(len(servers) == 1 for servers in seen.values()), seen
    assert len(set().union(*seen.values())) > 1, seen


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize(("endpoints", "size"), [(1, 1), (2, 16), (30, 128), (50, 1024)])
def test_every_size_class_answers(node: Node, endpoints: int, size: int, sticky: bool) -> None:
    targets = [BackendAddress(ipaddress.ip_address(SERVERS[n % 3]), MANY + n // 3) for n in range(endpoints)]
    node.sync(vips((frontend(), Backend(tuple(sorted(targets)), sticky=sticky))))
    assert slots.size_class(endpoints) == size

    answers = [topology.ask(CLIENTS[n % len(CLIENTS)], VIP) for n in range(60)]

    seen = {BackendAddress(ipaddress.ip_address(answer.server), answer.port) for answer in answers}
    assert seen <= set(targets)
    assert len(seen) >= min(endpoints, 3 if sticky else 15) * 2 // 3, seen


def test_scaling_to_nought_refuses_at_once_and_back_answers_again(node: Node) -> None:
    node.sync(vips((frontend(), backend(SERVERS))))
    assert topology.ask(CLIENT, VIP).server in SERVERS

    node.sync(vips((frontend(), backend([]))))
    with pytest.raises(ConnectionRefusedError):
        topology.ask_at_once(CLIENT, VIP)

    node.sync(vips((frontend(), backend(SERVERS))))
    assert topology.ask(CLIENT, VIP).server in SERVERS


def test_an_unknown_port_and_an_unknown_vip_are_refused(node: Node) -> None:
    node.sync(vips((frontend(), backend(SERVERS))))

    for address, port in ((VIP, 81), ("10.112.9.9", 80)):
        with pytest.raises(ConnectionRefusedError):
            topology.ask_at_once(CLIENT, address, port)


def test_udp_is_answered_from_the_virtual_address_and_refused_without_endpoints(node: Node) -> None:
    node.sync(vips((frontend(53, "udp"), backend(SERVERS, 8053))))
    with topology.udp_socket(CLIENT) as sock:
        assert topology.exchange(sock, VIP, 53).server in SERVERS

    node.sync(vips((frontend(53, "udp"), backend([]))))
    with topology.udp_socket(CLIENT) as sock, pytest.raises(ConnectionRefusedError):
        topology.exchange(sock, VIP, 53)


def test_a_udp_flow_leaves_an_endpoint_that_is_gone(node: Node) -> None:
    node.sync(vips((frontend(53, "udp"), backend(SERVERS, 8053))))
    with topology.udp_socket(CLIENT) as sock:
        first = topology.exchange(sock, VIP, 53).server
        others = [server for server in SERVERS if server != first]
        node.sync(vips((frontend(53, "udp"), backend(others, 8053))))

        assert topology.exchange(sock, VIP, 53).server in others


def test_a_udp_flow_stays_with_its_endpoint_when_others_come_and_go(node: Node) -> None:
    node.sync(vips((frontend(53, "udp"), backend(SERVERS[:2], 8053))))
    with topology.udp_socket(CLIENT) as sock:
        first = topology.exchange(sock, VIP, 53).server
        node.sync(vips((frontend(53, "udp"), backend(SERVERS, 8053))))
        node.sync(vips((frontend(53, "udp"), backend([first], 8053))))

        assert topology.exchange(sock, VIP, 53).server == first
