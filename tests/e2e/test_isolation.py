"""What must not pass: nothing in clear, nothing around the tunnel, and nothing but fleet traffic through it.

Each refusal stands beside a witness: the same packet seen where it set out, or the same port answering whom it should.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import ipaddress
import json
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import lab
import paths
import paths_pod
import pytest
import wire
from paths import EAST, WEST

NAMESPACE = "e2e-isolation"
FLEET = "10.112.0.0/12"
PODS = "10.244.0.0/16"
"""Of every cluster of the lab, as are the services'."""
DNS_SERVICE = "10.96.0.10"
API_PORT, KUBELET_PORT, TUNNEL_PORT, METRICS_PORT = 6443, 10250, 31820, 9464
ALLOWED = f"(udp port {TUNNEL_PORT} or tcp port {API_PORT})"

CONNECT = """
import json, selectors, socket, sys, time
targets, source, patience = json.loads(sys.argv[1])
waiting, outcomes = selectors.DefaultSelector(), {}
def end(target, outcome):
    outcomes[":".join(map(str, target))] = outcome
for target in targets:
    attempt = socket.socket()
    attempt.setblocking(False)
    try:
        attempt.bind((source, 0))
        attempt.connect(tuple(target))
    except BlockingIOError:
        waiting.register(attempt, selectors.EVENT_WRITE, target)
    except OSError as err:
        end(target, err.strerror)
deadline = time.monotonic() + patience
while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
    for key, _ in waiting.select(left):
        error = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        end(key.data, __import__("os").strerror(error) if error else "connected")
        waiting.unregister(key.fileobj)
for key in waiting.get_map().values():
    end(key.data, "silence")
print(json.dumps(outcomes))
"""

SPOOF = """
import ipaddress, socket, struct, sys
target, port = sys.argv[1], int(sys.argv[2])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for source in sys.argv[3:]:
    data = b"spoofed"
    udp = struct.pack("!4H", 4242, port, 8 + len(data), 0) + data
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    # The kernel fills in length and checksum.
    raw.sendto(struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, 17, 0) + ends + udp, (target, 0))
"""

Target = tuple[str, int]


def connect(
    space: wire.Space, targets: Iterable[Target], *, source: str = "0.0.0.0", wait_s: float = 10.0
) -> dict[str, str]:
    """Try all targets at once from a network namespace; return how each ended: ``connected``, an error, ``silence``."""
    given = json.dumps([list(targets), source, wait_s])
    outcomes: dict[str, str] = json.loads(space.run(sys.executable, "-c", CONNECT, given))
    return outcomes


def primary_address(pod: lab.Pod) -> str:
    """Return a pod's address in its own cluster's network."""
    return str(pod.cluster.get("pod", pod.name, pod.namespace)["status"]["podIP"])


def node_address(node: str) -> str:
    """Return a node's address on its site's network."""
    shown = json.loads(wire.of_node(node).run("ip", "-j", "-4", "addr", "show", "dev", "eth0"))
    return str(shown[0]["addr_info"][0]["local"])


def system_pod(cluster: lab.Cluster, name: str) -> lab.Pod:
    """Return the running pod of one of the hub's parts."""
    for item in cluster.list("pods", lab.SYSTEM, selector=f"app.kubernetes.io/name={name}"):
        if item["status"]["phase"] == "Running" and "deletionTimestamp" not in item["metadata"]:
            return lab.Pod(cluster, lab.SYSTEM, item["metadata"]["name"])
    raise AssertionError(f"no {name} runs in {cluster.name}")


def cnf_space(cluster: lab.Cluster, node: str) -> wire.Space:
    """Return the network namespace of a node's cnf."""
    return wire.of_pod(lab.Pod(cluster, lab.SYSTEM, cluster.cnf_pod(node)))


@dataclasses.dataclass(frozen=True)
class Strangers:
    """Addresses that answer in their own cluster, and that no packet of c1's fleet network may reach."""

    west_pod: Target
    west_service: Target
    west_node: Target
    hub_pod: Target
    hub_service: Target
    hub_node: Target

    @property
    def all(self) -> list[Target]:
        """Return all of them."""
        return list(dataclasses.astuple(self))


@pytest.fixture(scope="module")
def world(namespaces: Callable[[str], str]) -> paths.Paths:
    return paths.build(namespaces(NAMESPACE))


@pytest.fixture(scope="module")
def strangers(world: paths.Paths) -> Strangers:
    found = Strangers(
        west_pod=(primary_address(world.west.pod), paths_pod.HTTP_PORT),
        west_service=(str(lab.C2.get("service", WEST, NAMESPACE)["spec"]["clusterIP"]), 80),
        west_node=(node_address(world.west.node), API_PORT),
        hub_pod=(primary_address(system_pod(lab.HUB, "syncer-hub")), METRICS_PORT),
        hub_service=(DNS_SERVICE, 53),
        hub_node=(node_address(lab.HUB.nodes()[0]), API_PORT),
    )
    # All of them answer at home.
    west = connect(wire.of_node(world.west.node), [found.west_pod, found.west_service, found.west_node])
    hub = connect(wire.of_node(lab.HUB.nodes()[0]), [found.hub_pod, found.hub_service, found.hub_node])
    assert set((west | hub).values()) == {"connected"}, (west, hub)
    return found


def test_between_clusters_only_wireguard_and_the_hubs_api_pass_and_nothing_of_the_fleet_in_clear(
    world: paths.Paths,
) -> None:
    marker = secrets.token_hex(16)
    nodes = {node: wire.of_node(node) for cluster in (lab.HUB, lab.C1, lab.C2) for node in cluster.nodes()}
    with contextlib.ExitStack() as stack:
        uplinks = {node: stack.enter_context(space.capture("eth0")) for node, space in nodes.items()}
        inside = stack.enter_context(wire.of_pod(world.west.pod).capture("net1"))
        for client, service in ((world.near, WEST), (world.far, WEST), (world.west, EAST)):
            client.pod.exec("curl", "-sS", "-m", "5", f"http://{world.name(service)}/{marker}")
            assert client.program("echo", world.name(service), "3000", "5")["whole"] == 5
        lab.eventually(lambda: inside.shows(marker.encode()), within_s=60)
        for node, uplink in uplinks.items():
            site = ipaddress.ip_interface(f"{node_address(node)}/24").network
            home = f"(src net {site} or src net {PODS}) and (dst net {site} or dst net {PODS})"
            carried = functools.partial(uplink.lines, f"udp port {TUNNEL_PORT}")
            assert lab.eventually(carried, within_s=60), f"{node} carried nothing"
            assert uplink.lines(f"ip and not ({home}) and not {ALLOWED}") == [], node
            assert uplink.lines(f"net {FLEET}") == [], node
            assert not uplink.shows(marker.encode()), node
            assert not uplink.shows(b'"apiVersion"'), f"{node} speaks to an API in clear"


def test_nobody_connects_to_a_members_nodes_around_the_tunnel(world: paths.Paths) -> None:
    spaces = {
        "hub": [wire.of_node(lab.HUB.nodes()[0]), wire.of_pod(system_pod(lab.HUB, "cnf-hub"))],
        "c1": [wire.of_node(world.near.node), cnf_space(lab.C1, world.near.node)],
        "c2": [wire.of_node(world.west.node), cnf_space(lab.C2, world.west.node)],
    }
    targets = {
        cluster.name: [
            (node_address(node), port)
            for node in cluster.nodes()
            for port in (KUBELET_PORT, *((API_PORT,) if node.endswith("control-plane") else ()))
        ]
        for cluster in (lab.HUB, lab.C1, lab.C2)
    }
    for member in ("c1", "c2"):
        assert set(connect(spaces[member][0], targets[member]).values()) == {"connected"}, "they answer at home"
        assert set(connect(spaces[member][1], targets["hub"]).values()) == {"connected"}, "members reach the hub"
        strangers = [space for elsewhere in spaces.keys() - {member} for space in spaces[elsewhere]]
        with concurrent.futures.ThreadPoolExecutor() as workers:
            found = list(workers.map(lambda space: connect(space, targets[member], wait_s=1), strangers))  # noqa: B023
        assert {outcome for outcomes in found for outcome in outcomes.values()} == {"silence"}, found


@pytest.mark.parametrize("place", ["near", "far"])
def test_a_pod_that_forces_its_packets_through_net1_reaches_no_cluster_network(
    world: paths.Paths, strangers: Strangers, place: str
) -> None:
    member = world.near if place == "near" else world.far
    other = world.far if place == "near" else world.near
    pod, cnf = wire.of_pod(member.pod), cnf_space(lab.C1, member.node)
    primary = primary_address(member.pod)
    # Pods of two clusters may have the same address, and what is its own a pod can't send away.
    targets = {
        target
        for target in (*strangers.all, (primary_address(other.pod), paths_pod.HTTP_PORT), ("192.0.2.1", 80))
        if target[0] != primary
    }
    with contextlib.ExitStack() as stack:
        for address in {address for address, _ in targets}:
            stack.enter_context(forced_route(pod, address))
        on_net1 = stack.enter_context(pod.capture("net1", "tcp[tcpflags] & tcp-syn != 0"))
        on_uplink = stack.enter_context(cnf.capture("eth0", f"net {FLEET} or host {primary}"))
        in_tunnel = stack.enter_context(cnf.capture("fleet0", f"ip and not (src net {FLEET} and dst net {FLEET})"))
        for source in (member.address, primary):
            outcomes = connect(pod, targets, source=source, wait_s=1)
            assert "connected" not in outcomes.values(), (source, outcomes)
            for address, port in targets:
                assert on_net1.lines(f"src host {source} and dst host {address} and dst port {port}"), "it set out"
        assert on_uplink.lines() == []
        assert in_tunnel.lines() == []
    assert member.fetch(world.name(WEST))[1] == member.address


@contextlib.contextmanager
def forced_route(pod: wire.Space, address: str) -> Iterator[None]:
    """Send a pod's packets for an address through net1: no pod could, it takes NET_ADMIN."""
    gateway = pod.run("ip", "-4", "route", "show", "dev", "net1", "exact", FLEET).split()[2]
    pod.run("ip", "route", "replace", f"{address}/32", "via", gateway, "dev", "net1", "onlink")
    try:
        yield
    finally:
        pod.run("ip", "route", "del", f"{address}/32", "dev", "net1")


@pytest.mark.parametrize("place", ["near", "far"])
def test_a_port_that_no_export_names_is_refused_to_other_clusters_at_once(world: paths.Paths, place: str) -> None:
    address = (world.near if place == "near" else world.far).address
    targets = [(address, paths_pod.HIDDEN_PORT), (address, paths_pod.HTTP_PORT)]
    outcomes = connect(wire.of_pod(world.west.pod), targets)
    assert outcomes == {
        f"{address}:{paths_pod.HIDDEN_PORT}": "No route to host",
        f"{address}:{paths_pod.HTTP_PORT}": "connected",
    }


def test_a_tampered_member_reaches_neither_the_hubs_networks_nor_anothers_nor_sends_from_foreign_addresses(
    world: paths.Paths, strangers: Strangers
) -> None:
    leader = lab.C1.leader()
    cnf_pod = lab.Pod(lab.C1, lab.SYSTEM, lab.C1.cnf_pod(leader))
    cnf, hub, west = (
        wire.of_pod(cnf_pod),
        wire.of_pod(system_pod(lab.HUB, "cnf-hub")),
        cnf_space(lab.C2, world.west.node),
    )
    hub_address = str(ipaddress.ip_network(lab.C1.get("peer", "hub", lab.SYSTEM)["status"]["clusterCidrs"][0])[0])
    # The hub's node is where the tunnel itself goes; and another cluster's pod may have this cnf's own address.
    mine = {strangers.hub_node[0], primary_address(cnf_pod)}
    targets = [target for target in strangers.all if target[0] not in mine]
    own = world.near.address
    foreign = [world.west.address, "10.113.250.7", primary_address(world.near.pod)]
    try:
        tamper(cnf_pod, cnf, [address for address, _ in targets])
        with contextlib.ExitStack() as stack:
            arrived = stack.enter_context(hub.capture("fleet0"))
            let_out = stack.enter_context(hub.capture("eth0", f"net {FLEET}"))
            at_west = stack.enter_context(west.capture("fleet0"))
            outcomes = connect(cnf, [*targets, (hub_address, METRICS_PORT)], wait_s=3)
            assert "connected" not in outcomes.values(), outcomes
            for address, port in (*targets, (hub_address, METRICS_PORT)):
                reached = functools.partial(arrived.lines, f"dst host {address} and dst port {port}")
                assert lab.eventually(reached, within_s=60), f"no packet for {address} reached the hub"
            assert let_out.lines() == []
            assert at_west.lines(f"ip and not (src net {FLEET} and dst net {FLEET})") == []
            cnf.run(sys.executable, "-c", SPOOF, world.west.address, str(paths_pod.ECHO_PORT), *foreign, own)
            lab.eventually(lambda: at_west.lines(f"src host {own} and udp dst port {paths_pod.ECHO_PORT}"), within_s=60)
            for source in foreign:
                spoofed = f"src host {source} and src port 4242"
                assert arrived.lines(spoofed) == [], f"the hub took a packet from {source}"
                assert at_west.lines(spoofed) == [], f"c2 took a packet from {source}"
    finally:
        began = time.monotonic()
        lab.C1.delete("pod", cnf_pod.name, lab.SYSTEM)
        lab.eventually(lambda: world.near.fetch(world.name(WEST), timeout_s=1), within_s=60)
        lab.record("tampered cnf replaced: its pods reach the other cluster again", time.monotonic() - began)
        lab.eventually(lambda: is_ready(lab.C1.cnf_pod(leader)), within_s=60)


def is_ready(cnf_pod: str) -> bool:
    """Return whether a cnf pod of c1 is ready."""
    conditions = lab.C1.get("pod", cnf_pod, lab.SYSTEM)["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def tamper(cnf_pod: lab.Pod, cnf: wire.Space, addresses: Iterable[str]) -> None:
    """Open a cnf for everything, and point it at what is not the fleet's."""
    hub_key = lab.C1.get("peer", "hub", lab.SYSTEM)["status"]["publicKey"]
    cnf_pod.sh("nft delete table inet fleetboard")
    cnf_pod.sh(f"wg set fleet0 peer {hub_key} allowed-ips {FLEET},0.0.0.0/0")
    for interface in ("all", "eth0", "fleet0"):
        cnf.run("sysctl", "-qw", f"net.ipv4.conf.{interface}.forwarding=1", f"net.ipv4.conf.{interface}.rp_filter=0")
    for address in addresses:
        cnf.run("ip", "route", "add", f"{address}/32", "dev", "fleet0")


def test_while_net1_is_away_nothing_for_the_fleet_leaves_by_eth0(world: paths.Paths) -> None:
    member = world.far
    pod, cnf = wire.of_pod(member.pod), cnf_space(lab.C1, member.node)
    near_end = json.loads(pod.run("ip", "-j", "link", "show", "dev", "net1"))[0]["link_index"]
    found = re.search(rf"^{near_end}: (fv\w+)", cnf.run("ip", "-o", "link"), re.MULTILINE)
    assert found
    vip = lab.C1.get("serviceimport", WEST, NAMESPACE)["spec"]["ips"][0]
    targets = [(vip, 80), (world.west.address, paths_pod.HTTP_PORT), (world.near.address, paths_pod.HTTP_PORT)]
    assert set(connect(pod, targets).values()) == {"connected"}
    with pod.capture("eth0") as uplink:
        cnf.run("ip", "link", "del", found[1])
        gone = time.monotonic()
        assert "net1" not in pod.run("ip", "-br", "link")
        outcomes = connect(pod, targets, wait_s=0.2)
        assert set(outcomes.values()) == {"No route to host"}, outcomes
        lab.eventually(lambda: member.fetch(world.name(WEST), timeout_s=1)[1] == member.address, within_s=60)
        lab.record("net1 lost: made again by cnf's collector, and answering", time.monotonic() - gone)
        assert uplink.lines("udp port 53"), "eth0 was there all the while"
        assert uplink.lines(f"net {FLEET}") == []
