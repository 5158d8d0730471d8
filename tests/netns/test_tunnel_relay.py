from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest
from entering import enter, inside

from cnf.tunnel import errors, userspace
from cnf.tunnel.plan import mesh, plan
from cnf.tunnel.plan.desired import DesiredTunnel, PeerEndpoint
from cnf.tunnel.plan.mesh import (
    Leadership,
    MemberSession,
    MeshNode,
    NodeIdentity,
    RelayIdentity,
    RelayMember,
    RelayPeer,
)
from cnf.tunnel.session import epochs, probe, probe_port
from cnf.tunnel.wireguard import key, uapi
from cnf.tunnel.wireguard.tunnel import Tunnel, TunnelPeerStatus
from fleetboard.model.addresses import Address
from fleetboard.model.standbys import choose_standbys

pytestmark = pytest.mark.netns

FLEET = ip_network("10.112.0.0/12")
UNDERLAY = "tun-net"
RELAY = "relay"
MTU = 1360


@dataclasses.dataclass(frozen=True)
class Box:
    """One network namespace with its cnf."""

    name: str
    cluster: str
    block: str
    underlay: str

    @property
    def namespace(self) -> str:
        return f"tun-{self.name}"

    @property
    def link(self) -> str:
        return f"fbt-{self.name}"

    @property
    def address(self) -> str:
        return str(ip_network(self.block).network_address)

    @property
    def pod(self) -> str:
        return str(ip_network(self.block).network_address + 9)


BOXES = {
    RELAY: Box(RELAY, RELAY, "10.113.0.0/22", "192.0.2.1"),
    "c1a": Box("c1a", "c1", "10.113.4.0/26", "192.0.2.11"),
    "c1b": Box("c1b", "c1", "10.113.4.64/26", "192.0.2.12"),
    "c2a": Box("c2a", "c2", "10.113.8.0/26", "192.0.2.21"),
}
BLOCKS = {"c1": ip_network("10.113.4.0/22"), "c2": ip_network("10.113.8.0/22")}


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - start


class World:
    """A relay and two members on one underlay, each with the kernel's WireGuard or wireguard-go."""

    def __init__(self) -> None:
        self.kernel = userspace.kernel_has_wireguard()
        self.keys = {name: key.generate() for name in BOXES}
        self.tunnels = {name: Tunnel(box.link, private_key=self.keys[name], wait_s=10) for name, box in BOXES.items()}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.leaders = {"c1": "c1a", "c2": "c2a"}
        self.epoch = {"c1": 1, "c2": 1}
        self.mtu = MTU

    def start(self) -> None:
        sh(f"ip netns add {UNDERLAY}; ip -n {UNDERLAY} link add br0 type bridge; ip -n {UNDERLAY} link set br0 up")
        for name, box in BOXES.items():
            sh(
                f"ip netns add {box.namespace}; ip -n {box.namespace} link set lo up;"
                f"ip -n {box.namespace} link add eth0 type veth peer name u-{name} netns {UNDERLAY};"
                f"ip -n {UNDERLAY} link set u-{name} master br0 up;"
                f"ip -n {box.namespace} addr add {box.underlay}/24 dev eth0; ip -n {box.namespace} link set eth0 up;"
                f"ip netns exec {box.namespace} sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward;"
                f" echo 0 > /proc/sys/net/ipv4/conf/default/forwarding';"
                f"ip -n {box.namespace} addr add {box.pod}/32 dev lo"
            )
            self.start_wireguard(name)

    def start_wireguard(self, name: str) -> None:
        if self.kernel:
            return
        box = BOXES[name]
        environment = os.environ | {"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"}
        program = os.environ.get("WIREGUARD_GO") or shutil.which("wireguard-go") or "wireguard-go"
        command = ["ip", "netns", "exec", box.namespace, program, "-f", box.link]
        self.processes[name] = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    def kill_wireguard(self, name: str) -> None:
        if self.kernel:
            sh(f"ip -n {BOXES[name].namespace} link del {BOXES[name].link}")
            return
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(60)

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill_wireguard(name)
        for box in BOXES.values():
            subprocess.run(["ip", "netns", "del", box.namespace], check=False, stderr=subprocess.DEVNULL)
            uapi.socket_path(box.link).unlink(missing_ok=True)
        subprocess.run(["ip", "netns", "del", UNDERLAY], check=False, stderr=subprocess.DEVNULL)

    def desired(self, name: str) -> DesiredTunnel:
        return self._desired_relay() if name == RELAY else self._desired_node(name)

    def sync(self, name: str) -> None:
        desired = self.desired(name)
        inside(BOXES[name].namespace, lambda: self.tunnels[name].sync(desired))

    def status(self, name: str) -> list[TunnelPeerStatus]:
        return inside(BOXES[name].namespace, self.tunnels[name].status)

    def sync_all(self) -> None:
        for name in BOXES:
            self.sync(name)

    def _desired_relay(self) -> DesiredTunnel:
        identity = RelayIdentity(self.keys[RELAY].public, (ip_address(BOXES[RELAY].address),), (FLEET,), self.mtu)
        members = [
            RelayMember(cluster, (BLOCKS[cluster],), tuple(self._sessions(cluster)), self.epoch[cluster])
            for cluster in BLOCKS
        ]
        return plan.plan_relay(identity, members).desired

    def _sessions(self, cluster: str) -> Iterator[MemberSession]:
        for name, box in BOXES.items():
            if box.cluster == cluster:
                leads = self.leaders[cluster] == name
                yield MemberSession(self.keys[name].public, (ip_address(box.address),), leads, name)

    def _desired_node(self, name: str) -> DesiredTunnel:
        own = BOXES[name]
        cluster = own.cluster
        boxes = {other: box for other, box in BOXES.items() if box.cluster == cluster}
        nodes = [
            MeshNode(other, self.keys[other].public, PeerEndpoint(box.underlay, 31820), (ip_network(box.block),))
            for other, box in boxes.items()
        ]
        relay = RelayPeer(
            self.keys[RELAY].public,
            (PeerEndpoint(BOXES[RELAY].underlay, 31820),),
            (ip_address(BOXES[RELAY].address),),
            (FLEET,),
            self.mtu,
        )
        leader = self.leaders[cluster]
        leadership = Leadership(leader, choose_standbys(leader, boxes), self.epoch[cluster])
        identity = NodeIdentity(name, self.keys[name].public, (ip_network(own.block),), (BLOCKS[cluster],))
        return plan.plan_node(identity, nodes, relay, leadership).desired


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    try:
        made.start()
        made.sync_all()
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def echo_server(box: Box) -> Iterator[None]:
    """Echo UDP datagrams at the box's pod address."""
    stop = threading.Event()

    def open_socket() -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind((box.pod, 9000))
        opened.settimeout(0.1)
        return opened

    opened = inside(box.namespace, open_socket)

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                payload, source = opened.recvfrom(4096)
                opened.sendto(payload, source)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        opened.close()


class Client:
    """Sends numbered datagrams from one pod to another and counts what comes back."""

    def __init__(self, source: Box, target: Box) -> None:
        self._target = (target.pod, 9000)
        self._number = 0
        self._socket = inside(source.namespace, lambda: self._open(source))

    @staticmethod
    def _open(source: Box) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind((source.pod, 0))
        return opened

    def once(self, size: int = 64, *, within_s: float = 0.2) -> bool:
        self._number += 1
        self._socket.settimeout(within_s)
        payload = self._number.to_bytes(8, "big").ljust(size, b"\0")
        try:
            self._socket.sendto(payload, self._target)
            while True:
                if self._socket.recv(4096) == payload:
                    return True
        except OSError:
            return False

    def lost_of(self, count: int) -> int:
        # Late is not lost: eight processes pass each of them on.
        return sum(not self.once(within_s=3) for _ in range(count))

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def client(source: str, target: str) -> Iterator[Client]:
    with echo_server(BOXES[target]):
        made = Client(BOXES[source], BOXES[target])
        try:
            yield made
        finally:
            made.close()


def test_pods_of_two_clusters_reach_each_other_through_leader_and_relay(world: World) -> None:
    with client("c1b", "c2a") as pods:
        wait_for(pods.once, "first answer")
        assert pods.lost_of(50) == 0
        assert pods.once(size=3000, within_s=3), "fragments must pass too"
    carried = {peer.public_key: peer.rx_bytes for peer in world.status("c1b")}
    assert set(carried) == {world.keys["c1a"].public, world.keys[RELAY].public}
    assert carried[world.keys["c1a"].public] > 0


def test_a_sync_that_finds_nothing_to_do_writes_nothing(world: World) -> None:
    with client("c1b", "c2a") as pods:
        wait_for(pods.once, "first answer")
    before = {name: tunnel.counters.writes for name, tunnel in world.tunnels.items()}
    routes = {name: sh(f"ip -n {box.namespace} route show table all proto 113") for name, box in BOXES.items()}
    world.sync_all()
    world.sync_all()
    assert {name: tunnel.counters.writes for name, tunnel in world.tunnels.items()} == before
    assert {name: sh(f"ip -n {box.namespace} route show table all proto 113") for name, box in BOXES.items()} == routes


def test_a_new_leader_takes_over_with_one_write_on_each_side(world: World) -> None:
    with client("c1b", "c2a") as pods:
        wait_for(pods.once, "first answer")
        wait_for(lambda: has_session(world, "c1b", RELAY), "the standby's own session")
        before = {name: world.tunnels[name].counters.writes for name in ("c1b", RELAY)}
        old = {name: {peer.public_key for peer in world.status(name)} for name in BOXES}

        world.leaders["c1"], world.epoch["c1"] = "c1b", 2
        world.sync("c1b")
        world.sync(RELAY)

        assert pods.lost_of(50) <= 2
        assert {name: world.tunnels[name].counters.writes - count for name, count in before.items()} == {
            "c1b": 1,
            RELAY: 1,
        }
        world.sync("c1a")
        assert {name: {peer.public_key for peer in world.status(name)} for name in BOXES} == old
        world.kill_wireguard("c1a")
        assert pods.lost_of(20) == 0


def has_session(world: World, at: str, peer: str) -> bool:
    ages = {status.public_key: status.handshake_age_s for status in world.status(at)}
    return ages.get(world.keys[peer].public) is not None


def test_a_link_that_went_away_gets_everything_back(world: World) -> None:
    tunnel, box = world.tunnels["c1b"], BOXES["c1b"]
    stop = threading.Event()

    def keep() -> None:
        enter(box.namespace)
        tunnel.run(stop)

    runner = threading.Thread(target=keep)
    with client("c1b", "c2a") as pods:
        wait_for(pods.once, "first answer")
        tunnel.set_desired(world.desired("c1b"))
        runner.start()
        try:
            world.kill_wireguard("c1b")
            assert world.kernel or not pods.once()
            assert world.kernel or world.status("c1b") == []
            world.start_wireguard("c1b")
            wait_for(lambda: pods.once(), "traffic after the restart")
        finally:
            stop.set()
            runner.join(15)
    assert tunnel.counters.restores == 1
    shown = sh(f"ip -n {box.namespace} route show")
    assert f"10.112.0.0/12 via 10.112.0.0 dev {box.link} proto 113 src {box.address} onlink" in shown


def test_without_wireguard_go_the_sync_says_which_container_is_missing(world: World) -> None:
    world.kill_wireguard("c2a")
    lonely = Tunnel(BOXES["c2a"].link, private_key=world.keys["c2a"], wait_s=0.2)
    with absent_unless_kernel(world, match="container 'wireguard'"):
        inside(BOXES["c2a"].namespace, lambda: lonely.sync(world.desired("c2a")))


def absent_unless_kernel(world: World, *, match: str | None = None) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if world.kernel else pytest.raises(errors.DeviceAbsentError, match=match)


def test_a_foreign_link_with_the_tunnels_name_makes_way(world: World) -> None:
    box = BOXES["c2a"]
    world.kill_wireguard("c2a")
    sh(f"ip -n {box.namespace} link add {box.link} type bridge")
    lonely = Tunnel(box.link, private_key=world.keys["c2a"], wait_s=0.2)
    with absent_unless_kernel(world):
        inside(box.namespace, lambda: lonely.sync(world.desired("c2a")))
    world.start_wireguard("c2a")
    world.sync("c2a")
    with client("c1b", "c2a") as pods:
        wait_for(pods.once, "traffic after the foreign link is gone")


def test_a_lower_mtu_is_set_on_the_living_link(world: World) -> None:
    world.mtu = 1300
    world.sync("c1a")
    assert "mtu 1300" in sh(f"ip -n tun-c1a link show {BOXES['c1a'].link}")


def test_the_link_forwards_and_checks_sources_loosely(world: World) -> None:
    settings = "/proc/sys/net/ipv4/conf/" + BOXES[RELAY].link
    shown = sh(f"ip netns exec tun-relay sh -c 'cat {settings}/forwarding {settings}/rp_filter'")
    assert shown.split() == ["1", "2"]


def test_dropping_a_prefix_loses_none_of_the_others(world: World) -> None:
    extra = ip_network("10.113.99.0/26")
    desired = world.desired("c1b")
    leader = desired.peer(world.keys["c1a"].public)
    assert leader is not None
    wider = dataclasses.replace(leader, allowed=leader.allowed | {extra})
    others = tuple(peer for peer in desired.peers if peer != leader)
    with client("c1b", "c2a") as pods:
        wait_for(pods.once, "first answer")
        inside("tun-c1b", lambda: world.tunnels["c1b"].sync(dataclasses.replace(desired, peers=(*others, wider))))
        assert extra in allowed(world, "c1b", "c1a")
        world.sync("c1b")
        assert pods.lost_of(20) == 0
    assert allowed(world, "c1b", "c1a") == leader.allowed
    assert len(world.status("c1b")) == len(desired.peers)


def allowed(world: World, at: str, peer: str) -> frozenset[object]:
    return next(s.allowed for s in world.status(at) if s.public_key == world.keys[peer].public)


def test_relays_send_no_redirects(world: World) -> None:
    with client("c1b", "c2a") as pods:
        wait_for(pods.once, "first answer")
        assert pods.lost_of(20) == 0
    for box in BOXES.values():
        counted = sh(f"ip netns exec {box.namespace} cat /proc/net/snmp").splitlines()
        header, values = (line.split() for line in counted if line.startswith("Icmp:"))
        assert values[header.index("OutRedirects")] == "0", box.name


def test_what_no_node_owns_is_unreachable_and_does_not_loop(world: World) -> None:
    with client("c2a", "c1b") as pods:
        wait_for(pods.once, "first answer")
    stray = f"ip netns exec tun-c2a ping -n -c 2 -W 1 -I {BOXES['c2a'].pod}"
    for target, speaker in (("10.113.5.77", "10.113.4.0"), ("10.120.0.1", "10.113.0.0")):
        answer = subprocess.run(f"{stray} {target}", shell=True, capture_output=True, text=True, check=False).stdout
        assert f"From {speaker} icmp_seq" in answer, answer
        assert "Unreachable" in answer, answer


@contextlib.contextmanager
def probe_socket(box: Box, prober: probe.Prober, responder: probe_port.Responder) -> Iterator[probe_port.ProbeSocket]:
    stop = threading.Event()
    made = inside(
        box.namespace, lambda: probe_port.ProbeSocket(ip_address(box.address), prober=prober, responder=responder)
    )

    def serve() -> None:
        enter(box.namespace)
        made.run(stop)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join()


def test_probes_tell_a_dead_relay_by_the_third_loss_and_a_revival_brings_it_back(world: World) -> None:
    relay_address = ip_address(BOXES[RELAY].address)
    revivals: list[int] = []
    lost_at_death: list[int] = []

    def revive(_address: object, lost: int) -> None:
        if lost % 5 == 0:
            revivals.append(lost)
            world.tunnels["c1a"].revive(world.keys[RELAY].public)

    def change(address: Address, is_alive: bool) -> None:
        state = prober.state(address)
        if state is not None and not is_alive:
            lost_at_death.append(state.lost)

    prober = probe.Prober(on_lost=revive, on_change=change)
    prober.set_targets([relay_address])
    with (
        probe_socket(BOXES[RELAY], probe.Prober(), probe_port.Responder()),
        probe_socket(BOXES["c1a"], prober, probe_port.Responder()),
    ):
        wait_for(lambda: alive(prober, relay_address) is True, "first echo")
        world.kill_wireguard(RELAY)
        wait_for(lambda: alive(prober, relay_address) is False and bool(lost_at_death), "death noticed")
        assert lost_at_death[-1] == 3
        world.start_wireguard(RELAY)
        wait_for(lambda: world.kernel or uapi.answers(BOXES[RELAY].link), "wireguard-go")
        world.sync(RELAY)
        # Otherwise WireGuard itself would begin again after 15 s of silence.
        assert wait_for(lambda: alive(prober, relay_address) is True, "back") < 10
    assert revivals


def test_a_kernel_answers_probes_while_no_agent_runs_there(world: World) -> None:
    relay_address = ip_address(BOXES[RELAY].address)
    sh(f"ip netns exec {BOXES['c1a'].namespace} sysctl -qw net.ipv4.ping_group_range='0 0'")
    prober = probe.Prober()
    prober.set_targets([relay_address])
    with probe_socket(BOXES["c1a"], prober, probe_port.Responder()):
        wait_for(lambda: alive(prober, relay_address) is True, "first echo")
        world.kill_wireguard(RELAY)
        wait_for(lambda: alive(prober, relay_address) is False, "death noticed")
        world.start_wireguard(RELAY)
        wait_for(lambda: world.kernel or uapi.answers(BOXES[RELAY].link), "wireguard-go")
        world.sync(RELAY)
        world.tunnels["c1a"].revive(world.keys[RELAY].public)
        wait_for(lambda: alive(prober, relay_address) is True, "back")


def alive(prober: probe.Prober, address: object) -> bool | None:
    state = prober.state(address)  # type: ignore[arg-type]
    return state.alive if state is not None else None


def test_an_announcement_in_the_tunnel_moves_the_traffic_and_a_lower_epoch_is_refused(world: World) -> None:
    highest_epochs = epochs.HighestEpochs()
    highest_epochs.allow(
        {"c1": {ip_address(BOXES[name].address): world.keys[name].public for name in ("c1a", "c1b")}},
    )
    highest_epochs.observe("c1", epochs.LeaderEpoch(1, world.keys["c1a"].public))

    def take_over(cluster: str, leader_epoch: epochs.LeaderEpoch) -> None:
        world.leaders[cluster] = next(name for name in BOXES if world.keys[name].public == leader_epoch.public_key)
        world.epoch[cluster] = leader_epoch.epoch
        world.sync(RELAY)

    relay_address = ip_address(BOXES[RELAY].address)
    with (
        probe_socket(BOXES[RELAY], probe.Prober(), probe_port.Responder(highest_epochs, on_new_leader=take_over)),
        probe_socket(BOXES["c1a"], probe.Prober(), probe_port.Responder()) as old,
        probe_socket(BOXES["c1b"], probe.Prober(), probe_port.Responder()) as new,
        client("c1b", "c2a") as pods,
    ):
        wait_for(pods.once, "first answer")
        ack = new.announce(
            relay_address, cluster="c1", leader_epoch=epochs.LeaderEpoch(2, world.keys["c1b"].public), attempts=20
        )
        assert ack is not None
        assert ack.accepted
        world.sync("c1b")
        assert pods.lost_of(20) <= 2
        late = old.announce(
            relay_address, cluster="c1", leader_epoch=epochs.LeaderEpoch(1, world.keys["c1a"].public), attempts=20
        )
        assert late is not None
        assert (late.accepted, late.epoch) == (False, 2)
        forged = old.announce(
            relay_address, cluster="c2", leader_epoch=epochs.LeaderEpoch(9, world.keys["c1a"].public), attempts=2
        )
        assert forged is None
    assert mesh.host(ip_address(BOXES["c1a"].address)) in allowed(world, RELAY, "c1a")
