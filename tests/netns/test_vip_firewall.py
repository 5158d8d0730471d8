"""What cnf's namespace forwards and what it doesn't, on the real kernel."""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
import vip_topology as topology
from vip_topology import CLIENT, CNF_UPLINK, FOREIGN, NODE, SERVERS, SIBLING, UPLINK, VIP, Node, backend, frontend, vips

from cnf.vip.firewall import RelayFirewall
from fleetboard.model import names

ELSEWHERE = "10.116.0.9"
"""An address of a fourth cluster: out of the tunnel and back into it."""
CNF_PORT = 9464

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def echo() -> Iterator[topology.Echo]:
    with topology.serving() as echo:
        echo.listen("pods", CLIENT, 8080)
        echo.listen("far", FOREIGN, 8080)
        echo.listen("far", SIBLING, 8080)
        echo.listen("uplink", UPLINK, 8080)
        echo.listen("cnf", "0.0.0.0", CNF_PORT)
        echo.listen("cnf", NODE, names.PROBE_PORT, udp=True)
        yield echo


@pytest.fixture
def node(echo: topology.Echo) -> Node:
    node = Node()
    node.sync(vips())
    return node


def is_silent(source: str, target: str, port: int = 8080, *, namespace: str) -> bool:
    try:
        topology.ask(source, target, port, namespace=namespace, timeout_s=0.3)
    except TimeoutError:
        return True
    return False


def ping(namespace: str, source: str, target: str) -> bool:
    with topology.inside(namespace):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with sock:
        sock.settimeout(10)
        sock.bind((source, 0))
        sock.sendto(icmp(8, struct.pack("!HH", 77, 1)), (target, 0))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                packet, sender = sock.recvfrom(1500)
            except TimeoutError:
                return False
            if packet[20] == 0 and sender[0] == target:
                return True
    return False


def checksum(octets: bytes) -> int:
    words = struct.unpack(f"!{len(octets) // 2}H", octets)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def icmp(kind: int, rest: bytes, *, code: int = 0) -> bytes:
    empty = struct.pack("!BBH", kind, code, 0) + rest
    return struct.pack("!BBH", kind, code, checksum(empty)) + rest


def segment(source: tuple[str, int], target: tuple[str, int], flags: int) -> bytes:
    """A TCP segment without options or payload."""
    pseudo = ipaddress.ip_address(source[0]).packed + ipaddress.ip_address(target[0]).packed + struct.pack("!HH", 6, 20)
    parts = (source[1], target[1], 1000, 2000, 5 << 4, flags, 1024)
    empty = struct.pack("!HHIIBBHHH", *parts, 0, 0)
    return struct.pack("!HHIIBBHHH", *parts, checksum(pseudo + empty), 0)


def test_a_pod_never_leaves_by_the_uplink(node: Node) -> None:
    assert is_silent(CLIENT, UPLINK, namespace="pods")
    assert node.counters()["forward_interface"] > 0


def test_a_member_never_reaches_the_uplinks_network(node: Node) -> None:
    topology.ip("far", f"route replace {UPLINK}/32 via 198.51.100.1")

    assert is_silent(FOREIGN, UPLINK, namespace="far")


def test_the_uplinks_network_reaches_neither_pods_nor_the_node_by_fleet_addresses(node: Node) -> None:
    assert is_silent(UPLINK, SERVERS[0], namespace="uplink")
    assert is_silent(UPLINK, FOREIGN, namespace="uplink")
    assert node.counters()["forward_interface"] > 0

    assert is_silent(UPLINK, NODE, CNF_PORT, namespace="uplink")
    assert node.counters()["uplink_in"] > 0


def test_cnfs_own_traffic_on_the_uplink_is_left_alone(node: Node) -> None:
    assert topology.ask(UPLINK, CNF_UPLINK, CNF_PORT, namespace="uplink").client == UPLINK
    assert topology.ask(CNF_UPLINK, UPLINK, 8080, namespace="cnf").server == UPLINK


def test_fleet_addresses_never_leave_by_the_uplink_in_clear(node: Node) -> None:
    topology.ip("cnf", f"route replace 10.119.0.0/16 via {UPLINK}")

    with topology.udp_socket(CNF_UPLINK, namespace="cnf") as sock, pytest.raises(PermissionError):
        sock.sendto(b"?", ("10.119.0.1", 9))

    assert node.counters()["uplink_out"] > 0


@pytest.mark.parametrize(("namespace", "source"), [("pods", CLIENT), ("far", FOREIGN), ("far", SIBLING)])
def test_no_fleet_address_reaches_cnfs_own_sockets(node: Node, namespace: str, source: str) -> None:
    topology.ip("far", f"route replace {CNF_UPLINK}/32 via 198.51.100.1")

    assert is_silent(source, NODE, CNF_PORT, namespace=namespace)
    assert is_silent(source, CNF_UPLINK, CNF_PORT, namespace=namespace)
    assert node.counters()["input_refused"] > 0


def test_probes_are_answered_out_of_the_tunnel_alone(node: Node) -> None:
    with topology.udp_socket(FOREIGN, namespace="far") as sock:
        assert topology.exchange(sock, NODE, names.PROBE_PORT).client == FOREIGN
    with topology.udp_socket(CLIENT, timeout_s=0.3) as sock, pytest.raises(TimeoutError):
        topology.exchange(sock, NODE, names.PROBE_PORT)


def test_cnf_hears_the_answers_to_its_own_probes(node: Node, echo: topology.Echo) -> None:
    echo.listen("far", SIBLING, names.PROBE_PORT, udp=True)

    with topology.udp_socket(NODE, namespace="cnf") as sock:
        assert topology.exchange(sock, SIBLING, names.PROBE_PORT).client == NODE


@pytest.mark.parametrize(("namespace", "source"), [("pods", CLIENT), ("far", FOREIGN)])
def test_the_node_and_the_pods_answer_pings(node: Node, namespace: str, source: str) -> None:
    assert ping(namespace, source, NODE)
    assert ping(namespace, source, SERVERS[0])


def test_redirects_are_dropped(node: Node, eventually: Callable[[Callable[[], object]], None]) -> None:
    with topology.inside("pods"):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with sock:
        sock.bind((CLIENT, 0))
        sock.sendto(icmp(5, socket.inet_aton(CLIENT) + b"\x45" + bytes(27), code=1), (NODE, 0))

    eventually(lambda: node.counters()["redirects"] == 1)


def test_pods_reach_the_whole_fleet(node: Node) -> None:
    for target in (SERVERS[0], SIBLING, FOREIGN):
        assert topology.ask(CLIENT, target, 8080).client == CLIENT


def test_other_clusters_reach_exported_ports_alone(node: Node) -> None:
    node.sync(vips(exported=topology.exported(SERVERS[0], 8080)))

    assert topology.ask(FOREIGN, SERVERS[0], 8080, namespace="far").client == FOREIGN
    with pytest.raises(OSError, match="No route to host"):
        topology.ask_at_once(FOREIGN, SERVERS[1], 8080, namespace="far")
    with topology.udp_socket(FOREIGN, namespace="far") as sock, pytest.raises(OSError, match="No route to host"):
        topology.exchange(sock, SERVERS[0], 8053)
    assert node.counters()["not_exported"] >= 2


def test_a_withdrawn_export_closes_the_port(node: Node) -> None:
    node.sync(vips(exported=topology.exported(SERVERS[0], 8080)))
    node.sync(vips())

    with pytest.raises(OSError, match="No route to host"):
        topology.ask_at_once(FOREIGN, SERVERS[0], 8080, namespace="far")


def test_the_nodes_own_cluster_reaches_every_port(node: Node) -> None:
    assert topology.ask(SIBLING, SERVERS[1], 8080, namespace="far").client == SIBLING


def test_a_segment_in_midstream_opens_no_way_to_a_closed_port(node: Node) -> None:
    source, target = (FOREIGN, 45001), (SERVERS[1], 8080)

    def connect() -> None:
        with topology.inside("far"):
            client = socket.socket()
        with client:
            client.settimeout(topology.AT_ONCE_S)
            client.bind(source)
            client.connect(target)

    with topology.inside("far"):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with raw:
        raw.bind((FOREIGN, 0))
        raw.settimeout(10)
        raw.sendto(segment(source, target, 0x10), (SERVERS[1], 0))
        assert raw.recv(100)[33] & 0x04, "the pod resets what it doesn't know: the segment got there"

        with pytest.raises(OSError, match="No route to host"):
            topology.at_once(connect)


def test_a_connection_that_the_other_side_alone_talks_on_survives_lost_tracking(node: Node) -> None:
    with topology.inside("far"):
        listener = socket.create_server((FOREIGN, 8090))
    with topology.inside("pods"):
        client = socket.socket()
    with listener, client:
        client.settimeout(10)
        client.connect((FOREIGN, 8090))
        server, _ = listener.accept()
        with server:
            server.send(b"before")
            assert client.recv(10) == b"before"
            topology.forget_connections()
            server.send(b"after")
            assert client.recv(10) == b"after"


def test_a_virtual_address_that_comes_out_of_the_tunnel_is_refused(node: Node) -> None:
    node.sync(vips((frontend(), backend(SERVERS))))

    with pytest.raises(ConnectionRefusedError):
        topology.ask_at_once(FOREIGN, VIP, namespace="far")


def test_a_client_that_is_its_own_endpoint_is_answered(node: Node) -> None:
    node.sync(vips((frontend(), backend([CLIENT])), hairpin=CLIENT))

    answer = topology.ask(CLIENT, VIP)

    assert (answer.server, answer.client) == (CLIENT, NODE)


def test_maximum_segment_size_fits_the_tunnel(node: Node) -> None:
    with topology.inside("far"):
        listener = socket.create_server((FOREIGN, 8091))
    with topology.inside("pods"):
        client = socket.socket()
    with listener, client:
        client.settimeout(10)
        client.bind((CLIENT, 0))
        client.connect((FOREIGN, 8091))
        server, _ = listener.accept()
        with server:
            assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 1320


def returned(source: str, *, within_s: float) -> bool:
    """Return whether a datagram from ``source`` to another cluster comes back out of the node into the tunnel."""
    with topology.inside("far"):
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with sniffer, topology.udp_socket(source, namespace="far") as sock:
        sniffer.bind(("peer", 0x0800))
        sniffer.settimeout(within_s)
        sock.sendto(b"?", (ELSEWHERE, 9))
        try:
            while True:
                packet, (_, _, kind, *_) = sniffer.recvfrom(1500)
                if kind == socket.PACKET_HOST and packet[16:20] == socket.inet_aton(ELSEWHERE):
                    return True
        except TimeoutError:
            return False


def test_the_leader_carries_for_its_own_cluster_alone(node: Node) -> None:
    assert returned(SIBLING, within_s=10)
    assert not returned(FOREIGN, within_s=0.3)
    assert node.counters()["forward_transit"] == 1


def passed_on_from(source: str, message: bytes) -> str:
    """Return the source under which the node passes on an ICMP message from ``source`` to another cluster."""
    with topology.inside("far"):
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    ends = socket.inet_aton(source) + socket.inet_aton(ELSEWHERE)
    with sniffer, raw:
        sniffer.bind(("peer", 0x0800))
        sniffer.settimeout(10)
        raw.sendto(struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, 1, 0) + ends + message, (ELSEWHERE, 0))
        while True:
            packet, (_, _, kind, *_) = sniffer.recvfrom(1500)
            if kind == socket.PACKET_HOST and packet[16:20] == ends[4:]:
                assert checksum(packet[:20]) == 0
                assert packet[20:] == message
                return socket.inet_ntoa(packet[12:16])


def test_the_leader_passes_on_the_errors_of_other_nodes_as_its_own(node: Node) -> None:
    # The relay accepts a standby's address from the standby's own session alone.
    refused = bytes(4) + b"\x45" + bytes(27)
    for kind, code in ((3, 13), (3, 4), (11, 0)):
        assert passed_on_from(topology.SIBLING_NODE, icmp(kind, refused, code=code)) == NODE


def test_the_leader_leaves_the_source_of_anything_else_alone(node: Node) -> None:
    refused = bytes(4) + b"\x45" + bytes(27)
    assert passed_on_from(SIBLING, icmp(3, refused, code=3)) == SIBLING
    assert passed_on_from(topology.SIBLING_NODE, icmp(0, bytes(4))) == topology.SIBLING_NODE


@pytest.fixture
def relay(echo: topology.Echo) -> Node:
    fleet = ipaddress.ip_network("10.112.0.0/12")
    return Node(RelayFirewall(fleet=(fleet,), vips=(ipaddress.ip_network("10.112.0.0/16"),)))


def test_the_relay_forwards_between_any_two_members(relay: Node) -> None:
    assert returned(FOREIGN, within_s=10)


def test_the_relay_forwards_nothing_to_or_from_other_interfaces(relay: Node) -> None:
    topology.ip("far", f"route replace {UPLINK}/32 via 198.51.100.1")

    assert is_silent(FOREIGN, UPLINK, namespace="far")
    assert is_silent(UPLINK, FOREIGN, namespace="uplink")
    assert is_silent(CLIENT, FOREIGN, namespace="pods")
    assert is_silent(FOREIGN, NODE, CNF_PORT, namespace="far")


def test_the_relay_receives_probes(relay: Node) -> None:
    with topology.udp_socket(FOREIGN, namespace="far") as sock:
        assert topology.exchange(sock, NODE, names.PROBE_PORT).client == FOREIGN


def test_the_uplinks_network_cant_speak_from_fleet_addresses(node: Node) -> None:
    topology.ip("uplink", "addr replace 10.118.0.1/32 dev lo")
    # The route by the uplink keeps reverse path filtering out of the way.
    topology.ip("cnf", f"route replace 10.118.0.0/16 via {UPLINK}")

    assert is_silent("10.118.0.1", CNF_UPLINK, CNF_PORT, namespace="uplink")
    assert node.counters()["uplink_in"] > 0
