"""Clients follow their service's endpoints: from the slices that the API holds to the packets on the wire."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import select
import socket
import subprocess
from collections.abc import Iterator

import pytest
import vip_topology as topology
from vip_topology import CLIENT, FOREIGN, SERVERS, SIBLING, VIP, Node, backend, frontend, vips

from cnf.vip import nftables, plan, shares
from cnf.vip.table import Backend, BackendAddress
from fleetboard.model import names
from fleetboard.model.core import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from fleetboard.model.fleet import Constituent, FleetService, FleetServiceSpec, ServicePort
from fleetboard.model.meta import ObjectMeta

HTTP, DNS = ServicePort(port=80, name="http"), ServicePort(port=53, name="dns", protocol="UDP")
HERE = plan.ClustersetView(
    cluster="c1",
    blocks={"c1": (ipaddress.ip_network("10.113.0.0/22"),), "c2": (topology.FOREIGN_BLOCK,)},
    node_blocks=(ipaddress.ip_network("10.113.0.0/26"),),
)
MANY_CLIENTS = [f"10.113.0.{number}" for number in range(64, 124)]
EVERY = 200
"""Ports of each server that are endpoints of one service."""
FIRST_PORT = 20000

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]  # hundreds of asks, one after the other


@pytest.fixture(scope="module")
def echo() -> Iterator[topology.Echo]:
    with topology.serving() as echo:
        for server in SERVERS:
            for number in range(EVERY):
                echo.listen("servers", server, FIRST_PORT + number, udp=True)
        for address in (SIBLING, FOREIGN):
            echo.listen("far", address, 8080)
        for address in MANY_CLIENTS:
            topology.ip("pods", f"addr add {address}/32 dev net1")
        topology.ip("cnf", "route add 10.113.0.64/26 dev fvclient")
        yield echo


class Web:
    """One service whose slices change, as a node sees it."""

    def __init__(self, *, distribution: str = "", policy: str = "", affinity: str = "None") -> None:
        self.node = Node()
        self._planner = shares.Planner()
        constituents = [Constituent(cluster=cluster, ports=[HTTP, DNS]) for cluster in ("c1", "c2")]
        spec = FleetServiceSpec(
            namespace="default",
            name="web",
            vips=[VIP],
            ports=[HTTP, DNS],
            constituents=constituents,
            traffic_distribution=distribution,
            internal_traffic_policy=policy,
            session_affinity=affinity,
        )
        self._planner.put_service("web", FleetService(spec=spec))

    def show(self, cluster: str, *endpoints: Endpoint) -> None:
        """Replace the cluster's slice, and write what that changes."""
        labels = {
            names.LABEL_SERVICE_NAME: "web",
            names.LABEL_SOURCE_CLUSTER: cluster,
            names.LABEL_MANAGED_BY: names.MANAGED_BY,
        }
        ports = [EndpointPort(name="http", port=8080), EndpointPort(name="dns", port=8053, protocol="UDP")]
        metadata = ObjectMeta(name=f"web-{cluster}", namespace="default", labels=labels)
        found = EndpointSlice(metadata=metadata, endpoints=list(endpoints), ports=ports)
        self._planner.put_slice(cluster, found)
        with topology.inside("cnf"):
            self.node.firewall_writer.sync(self._planner.shares(HERE))


def endpoint(address: str, *, ready: bool = True, serving: bool | None = None, terminating: bool = False) -> Endpoint:
    conditions = EndpointConditions(ready=ready, serving=serving, terminating=terminating)
    return Endpoint(addresses=[address], conditions=conditions)


def all_but(gone: str, *instead: Endpoint) -> list[Endpoint]:
    return [*(endpoint(server) for server in SERVERS if server != gone), *instead]


@pytest.mark.parametrize("how", ["vanished", "not ready", "terminating"])
def test_a_udp_client_that_keeps_its_socket_leaves_an_endpoint_that_takes_no_more(
    echo: topology.Echo, how: str
) -> None:
    web = Web()
    web.show("c1", *map(endpoint, SERVERS))
    with topology.udp_socket(CLIENT) as sock:
        first = topology.exchange(sock, VIP, 53).server
        left = {
            "vanished": [],
            "not ready": [endpoint(first, ready=False)],
            "terminating": [endpoint(first, ready=False, serving=True, terminating=True)],
        }[how]
        web.show("c1", *all_but(first, *left))

        sock.send(b"?")
        assert topology.Answer.parse(sock.recv(100)).server in set(SERVERS) - {first}


def test_a_udp_client_hears_at_once_that_the_last_endpoint_is_gone_and_of_the_next_one(echo: topology.Echo) -> None:
    web = Web()
    web.show("c1", endpoint(SERVERS[0]))
    with topology.udp_socket(CLIENT) as sock:
        assert topology.exchange(sock, VIP, 53).server == SERVERS[0]
        web.show("c1")
        with pytest.raises(ConnectionRefusedError):
            topology.exchange(sock, VIP, 53)

        web.show("c1", endpoint(SERVERS[1]))
        assert topology.exchange(sock, VIP, 53).server == SERVERS[1]


def test_a_connection_to_a_terminating_endpoint_goes_on_and_new_ones_go_elsewhere(echo: topology.Echo) -> None:
    web = Web()
    web.show("c1", endpoint(SERVERS[0]))
    with topology.inside("servers"):
        listener = socket.create_server((SERVERS[0], 8081))
    with topology.inside("pods"):
        client = socket.socket()
    with listener, client:
        web.node.sync(vips((frontend(), backend(SERVERS[:1], 8081))))
        client.settimeout(10)
        client.connect((VIP, 80))
        server, _ = listener.accept()
        with server:
            leaving = endpoint(SERVERS[0], ready=False, serving=True, terminating=True)
            web.show("c1", leaving, endpoint(SERVERS[1]))
            for word in (b"one", b"two"):
                client.sendall(word)
                assert topology.read_exactly(server, 3) == word
                server.sendall(word)
                assert topology.read_exactly(client, 3) == word

    assert {topology.ask(CLIENT, VIP).server for _ in range(20)} == {SERVERS[1]}


@pytest.mark.parametrize(
    ("distribution", "present", "answering"),
    [
        ("PreferSameNode", [SERVERS[0], SIBLING, FOREIGN], [SERVERS[0]]),
        ("PreferSameNode", [SIBLING, FOREIGN], [SIBLING]),
        ("PreferClose", [SERVERS[0], SIBLING, FOREIGN], [SERVERS[0], SIBLING]),
        ("PreferClose", [FOREIGN], [FOREIGN]),
        ("", [SERVERS[0], SIBLING, FOREIGN], [SERVERS[0], SIBLING, FOREIGN]),
    ],
)
def test_near_endpoints_get_the_connections_where_the_service_prefers_them(
    echo: topology.Echo, distribution: str, present: list[str], answering: list[str]
) -> None:
    web = Web(distribution=distribution)
    web.show("c1", *(endpoint(address) for address in present if address != FOREIGN))
    web.show("c2", *(endpoint(address) for address in present if address == FOREIGN))

    assert {topology.ask(CLIENT, VIP).server for _ in range(60)} == set(answering)


def test_the_policy_local_refuses_where_the_node_has_no_endpoint(echo: topology.Echo) -> None:
    web = Web(policy="Local")
    web.show("c1", endpoint(SERVERS[0]), endpoint(SIBLING))
    web.show("c2", endpoint(FOREIGN))
    assert {topology.ask(CLIENT, VIP).server for _ in range(20)} == {SERVERS[0]}

    web.show("c1", endpoint(SIBLING))
    with pytest.raises(ConnectionRefusedError):
        topology.ask_at_once(CLIENT, VIP)


def test_affinity_holds_when_other_endpoints_come_and_go(echo: topology.Echo) -> None:
    web = Web(affinity="ClientIP")

    def answering(*servers: str) -> dict[str, str]:
        web.show("c1", *map(endpoint, servers))
        return {client: topology.ask(client, VIP).server for client in MANY_CLIENTS}

    three = answering(*SERVERS)
    two = answering(*SERVERS[:2])
    again = answering(*SERVERS)

    stayed = [client for client in MANY_CLIENTS if three[client] in SERVERS[:2]]
    moved = [client for client in stayed if two[client] != three[client]]
    assert set(three.values()) == set(SERVERS)
    assert again == three
    assert len(stayed) > len(MANY_CLIENTS) // 2
    assert len(moved) <= len(stayed) // 8, moved  # shares are even: one slot of eleven moves between the two


def touch_table(name: str) -> None:
    with topology.inside("cnf"):
        nftables.apply(f"add table ip {name}\ndelete table ip {name}\n")


@contextlib.contextmanager
def watched_elements() -> Iterator[list[str]]:
    """Gather what ``nft monitor`` shows; filled when the context ends."""
    found: list[str] = []
    with topology.inside("cnf"):
        monitor = subprocess.Popen(["nft", "-n", "monitor"], stdout=subprocess.PIPE, text=True)
    assert monitor.stdout is not None
    try:
        poll = select.poll()  # select itself knows descriptors below 1024 alone
        poll.register(monitor.stdout, select.POLLIN)
        while not poll.poll(50):  # nothing else says that it listens
            touch_table("begin")
        yield found
        touch_table("end")
        for line in monitor.stdout:
            if line.startswith("delete table ip end"):
                break
            found.append(line.strip())
    finally:
        monitor.kill()
        monitor.wait(10)
        monitor.stdout.close()


def test_one_endpoints_change_writes_its_services_elements_alone(echo: topology.Echo) -> None:
    others = {f"10.112.1.{number}": backend(SERVERS) for number in range(1, 250)}
    table = {address: vips((frontend(vip=address), servers)) for address, servers in others.items()}
    node = Node()
    with topology.inside("cnf"):
        node.firewall_writer.sync({**table, "mine": vips((frontend(), backend(SERVERS)))})

        with watched_elements() as seen:
            node.firewall_writer.sync({**table, "mine": vips((frontend(), backend(SERVERS[:2])))})

    written = [line for line in seen if re.match(r"(add|delete) element ", line)]
    assert 5 <= len(written) <= 14, written
    assert all(f"{{ {VIP} . " in line for line in written), written
    assert not [line for line in seen if re.match(r"(add|delete) (rule|chain|set|map) ", line)]
    assert topology.ask(CLIENT, VIP).server in SERVERS[:2]


def test_each_of_six_hundred_endpoints_of_one_service_gets_traffic(echo: topology.Echo) -> None:
    targets = [
        BackendAddress(ipaddress.ip_address(server), FIRST_PORT + number)
        for server in SERVERS
        for number in range(EVERY)
    ]
    node = Node()
    node.sync(vips((frontend(53, "udp"), Backend(tuple(sorted(targets))))))

    missing = {(str(target.address), target.port) for target in targets}
    for _ in range(20_000):  # 20 000 requests miss one of 1024 slots with a probability of 3e-9
        with topology.udp_socket(CLIENT) as sock:
            answer = topology.exchange(sock, VIP, 53)
        missing.discard((answer.server, answer.port))
        if not missing:
            break

    assert not missing
