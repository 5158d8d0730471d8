"""Every protocol goes through a virtual address and back, and is refused at once where nobody answers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
import sctp
import vip_topology as topology
from sctp import End
from vip_topology import CLIENT, FOREIGN, NODE, SERVERS, VIP, Node, backend, frontend, vips

PORT, TARGET_PORT = 3868, 38680

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def echo() -> Iterator[topology.Echo]:
    with topology.serving() as echo:
        echo.listen("pods", CLIENT, 8053, udp=True)
        yield echo


@pytest.fixture
def node(echo: topology.Echo) -> Node:
    node = Node()
    node.sync(vips())
    return node


@contextlib.contextmanager
def sctp_servers() -> Iterator[dict[str, End]]:
    with contextlib.ExitStack() as opened:
        yield {server: opened.enter_context(End("servers", server, TARGET_PORT)) for server in SERVERS}


def test_sctp_associations_spread_and_are_answered_from_the_virtual_address(node: Node) -> None:
    node.sync(vips((frontend(PORT, "sctp"), backend(SERVERS, TARGET_PORT))))

    with sctp_servers() as servers:
        seen = set()
        for number in range(48):  # one run in 90 million sees two servers
            with End("pods", CLIENT, 40000 + number) as client:
                seen.add(sctp.associate(client, servers, VIP, PORT))

    assert seen == set(SERVERS)


def test_sctp_without_an_endpoint_is_refused_at_once(node: Node) -> None:
    node.sync(vips((frontend(PORT, "sctp"), backend([]))))

    with End("pods", CLIENT, 41000) as client:
        client.connect(VIP)
        client.send(VIP, PORT, sctp.INIT, sctp.init(sctp.CLIENT_TAG))
        with pytest.raises(ConnectionRefusedError):
            client.receive()
    assert node.counters()["no_endpoint"] > 0


def test_other_clusters_reach_exported_sctp_and_udp_ports_alone(node: Node) -> None:
    ports = topology.exported(SERVERS[0], 8053, "udp") | topology.exported(SERVERS[0], TARGET_PORT, "sctp")
    node.sync(vips(exported=ports))

    with topology.udp_socket(FOREIGN, namespace="far") as sock:
        assert topology.exchange(sock, SERVERS[0], 8053).client == FOREIGN
    with topology.udp_socket(FOREIGN, namespace="far") as sock, pytest.raises(OSError, match="No route to host"):
        topology.exchange(sock, SERVERS[1], 8053)
    with pytest.raises(OSError, match="No route to host"):
        topology.ask_at_once(FOREIGN, SERVERS[0], 8080, namespace="far")
    with sctp_servers() as servers, End("far", FOREIGN, 42000) as client:
        client.send(SERVERS[0], TARGET_PORT, sctp.INIT, sctp.init(sctp.CLIENT_TAG))
        assert sctp.receive_first(servers)[0] == SERVERS[0]
        servers[SERVERS[0]].send(FOREIGN, 42000, sctp.INIT_ACK, sctp.init(sctp.SERVER_TAG), tag=sctp.CLIENT_TAG)
        assert client.receive().chunk == sctp.INIT_ACK
        client.connect(SERVERS[1])
        client.send(SERVERS[1], TARGET_PORT, sctp.INIT, sctp.init(sctp.CLIENT_TAG))
        with pytest.raises(OSError, match="No route to host"):
            client.receive()
    assert node.counters()["not_exported"] >= 3


def test_one_port_number_is_another_service_for_each_protocol(node: Node) -> None:
    node.sync(
        vips(
            (frontend(PORT), backend(SERVERS[:1], 8080)),
            (frontend(PORT, "udp"), backend(SERVERS[1:2], 8053)),
            (frontend(PORT, "sctp"), backend(SERVERS[2:], TARGET_PORT)),
        )
    )

    assert topology.ask(CLIENT, VIP, PORT).server == SERVERS[0]
    with topology.udp_socket(CLIENT) as sock:
        assert topology.exchange(sock, VIP, PORT).server == SERVERS[1]
    with sctp_servers() as servers, End("pods", CLIENT, 43000) as client:
        assert sctp.associate(client, servers, VIP, PORT) == SERVERS[2]


def test_a_udp_client_that_is_its_own_endpoint_is_answered(node: Node) -> None:
    node.sync(vips((frontend(53, "udp"), backend([CLIENT], 8053)), hairpin=CLIENT))

    with topology.udp_socket(CLIENT) as sock:
        answer = topology.exchange(sock, VIP, 53)

    assert (answer.server, answer.client) == (CLIENT, NODE)


def test_a_protocol_that_no_service_can_have_is_refused_at_once(node: Node) -> None:
    node.sync(vips((frontend(), backend(SERVERS))))
    with topology.inside("pods"):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)

    with sock:
        sock.settimeout(10)
        sock.bind((CLIENT, 0))
        sock.connect((VIP, 0))
        sock.send(bytes(8))
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)
