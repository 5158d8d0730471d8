"""The table outlives its process, is replaced without harm to connections, and changes around what stays."""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import vip_topology as topology
from vip_topology import CLIENT, SERVERS, VIP, Node, backend, frontend, vips

from cnf.vip import errors, firewall, nftables, transaction
from cnf.vip.table import ExportedPort

pytestmark = pytest.mark.netns

SERVED = vips((frontend(), backend(SERVERS)))


@pytest.fixture(scope="module")
def echo() -> Iterator[topology.Echo]:
    with topology.serving() as echo:
        yield echo


@pytest.fixture
def node(echo: topology.Echo) -> Node:
    node = Node()
    node.sync(SERVED)
    return node


def nft(text: str) -> None:
    with topology.inside("cnf"):
        nftables.apply(text)


def test_a_connection_lives_on_through_replacements_of_the_table(node: Node) -> None:
    with topology.inside("servers"):
        listener = socket.create_server((SERVERS[0], 8070))
    with topology.inside("pods"):
        client = socket.socket()
    with listener, client:
        node.sync(vips((frontend(), backend([SERVERS[0]], 8070))))
        client.settimeout(10)
        client.connect((VIP, 80))
        server, _ = listener.accept()
        with server:
            for number in range(5):
                Node().sync(vips((frontend(), backend([SERVERS[0]], 8070))))
                client.send(bytes([number]))
                assert server.recv(10) == bytes([number])
                server.send(bytes([number]))
                assert client.recv(10) == bytes([number])


def test_a_lost_connection_entry_is_made_again_to_the_same_endpoint(node: Node) -> None:
    with topology.inside("servers"):
        listeners = [socket.create_server((server, 8071)) for server in SERVERS]
    node.sync(vips((frontend(), backend(SERVERS, 8071))))
    for _ in range(10):
        with topology.inside("pods"):
            client = socket.socket()
        with client:
            client.settimeout(10)
            client.connect((VIP, 80))
            client.send(b"before")
            topology.forget_connections()
            client.send(b"after")
            server, _ = topology.accept_any(listeners)
            with server:
                server.settimeout(10)
                assert topology.read_exactly(server, 11) == b"beforeafter"
    for listener in listeners:
        listener.close()


def test_a_new_process_serves_what_the_former_one_did_until_it_knows_better(node: Node) -> None:
    new_node = Node()
    assert topology.ask(CLIENT, VIP).server in SERVERS

    new_node.sync(vips((frontend(), backend(SERVERS[:1]))))
    assert {topology.ask(CLIENT, VIP).server for _ in range(20)} == {SERVERS[0]}


def test_flows_to_endpoints_that_went_while_nobody_watched_are_freed(node: Node) -> None:
    node.sync(vips((frontend(53, "udp"), backend(SERVERS, 8053))))
    with topology.udp_socket(CLIENT) as sock:
        first = topology.exchange(sock, VIP, 53).server
        others = [server for server in SERVERS if server != first]
        Node().sync(vips((frontend(53, "udp"), backend(others, 8053))))

        assert topology.exchange(sock, VIP, 53).server in others


def test_a_table_that_somebody_else_emptied_is_put_back_whole(node: Node) -> None:
    nft("delete table inet fleetboard")

    node.sync(vips((frontend(), backend(SERVERS[:2]))))

    assert topology.ask(CLIENT, VIP).server in SERVERS[:2]


def test_only_what_changed_is_written(node: Node) -> None:
    written = node.firewall_writer.replacements
    node.sync(vips((frontend(), backend(SERVERS[:2])), (frontend(81), backend(SERVERS))))
    node.sync(vips((frontend(81), backend(SERVERS, sticky=True))))

    assert node.firewall_writer.replacements == written
    assert topology.ask(CLIENT, VIP, 81).server in SERVERS
    with pytest.raises(ConnectionRefusedError):
        topology.ask_at_once(CLIENT, VIP)


def test_the_firewall_changes_around_virtual_addresses_that_stay(node: Node) -> None:
    written = node.firewall_writer.replacements
    wider = dataclasses.replace(
        topology.firewall(), own=(ipaddress.ip_network("10.113.0.0/22"), topology.FOREIGN_BLOCK)
    )
    with pytest.raises(OSError, match="No route to host"):
        topology.ask_at_once(topology.FOREIGN, SERVERS[0], 8080, namespace="far")

    with topology.inside("cnf"):
        node.firewall_writer.set_base(wider)
    assert topology.ask(topology.FOREIGN, SERVERS[0], 8080, namespace="far").server == SERVERS[0]
    with topology.inside("cnf"):
        node.firewall_writer.set_base(topology.firewall())
    with pytest.raises(OSError, match="No route to host"):
        topology.ask_at_once(topology.FOREIGN, SERVERS[0], 8080, namespace="far")

    assert topology.ask(CLIENT, VIP).server in SERVERS
    assert node.firewall_writer.replacements == written


def test_a_table_of_another_version_is_replaced(echo: topology.Echo) -> None:
    nft(
        "add table inet fleetboard\ndelete table inet fleetboard\n"
        "table inet fleetboard { chain forward { type filter hook forward priority 5; policy drop; }; "
        "map spread4_16 { type ipv4_addr : ipv4_addr; }; }\n"
    )
    new_node = Node()
    with pytest.raises(TimeoutError):
        topology.ask(CLIENT, SERVERS[0], 8080, timeout_s=0.3)

    new_node.sync(SERVED)

    assert topology.ask(CLIENT, VIP).server in SERVERS
    assert topology.ask(CLIENT, SERVERS[0], 8080).server == SERVERS[0]


def test_a_refusal_names_the_line_and_leaves_the_table_as_it_was(node: Node) -> None:
    text = f"add element inet fleetboard nowhere {{ {VIP} }}\n"

    with pytest.raises(errors.RulesetRefusedError, match=r"line 1 .*nowhere"):
        nft(text)

    assert topology.ask(CLIENT, VIP).server in SERVERS


def closed() -> bool:
    with topology.inside("cnf"):
        return transaction.chain_exists(nftables.CLOSED_TABLE, nftables.CLOSED_CHAIN)


def test_what_is_of_a_family_that_the_firewall_lacks_takes_nothing_from_the_others(node: Node) -> None:
    """Peers come one by one: IPv6 services may exist before the hub's IPv6 ranges do."""
    written = node.firewall_writer.replacements
    six = ExportedPort(ipaddress.ip_address("fd00::5"), "tcp", 8080)

    node.sync(dataclasses.replace(SERVED, exported=frozenset([six])))

    assert not closed()
    assert topology.ask(CLIENT, VIP).server in SERVERS
    assert node.firewall_writer.replacements == written


def test_a_start_after_a_process_that_ended_before_the_maps_were_full_opens_the_table(echo: topology.Echo) -> None:
    nft(nftables.render_base(topology.firewall()))
    assert closed()
    with topology.inside("cnf"):
        assert nftables.serving() is None

    Node()

    assert not closed()
    assert topology.ask(CLIENT, SERVERS[0], 8080).server == SERVERS[0]


def test_a_table_whose_rules_alone_were_replaced_stands(node: Node) -> None:
    nft(nftables.render_rules(topology.firewall()))

    with topology.inside("cnf"):
        assert nftables.serving() == firewall.NAME
    assert topology.ask(CLIENT, VIP).server in SERVERS


def test_the_capabilities_of_the_agents_container_suffice(node: Node) -> None:
    capabilities = "-all,+net_admin,+sys_admin"
    program = (
        "import vip_topology as t; from cnf.vip import counters, writer\n"
        "p = writer.FirewallWriter(); p.set_base(t.firewall())\n"
        "for servers in (t.SERVERS, t.SERVERS[:1]):\n"
        "    p.sync({'': t.vips((t.frontend(53, 'udp'), t.backend(servers, 8053)))})\n"
        "print(len(counters.read()))\n"
    )
    command = ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}", sys.executable, "-c", program]
    with topology.inside("cnf"):
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10
