"""A node in network namespaces: pods on ``fv*``, the rest of the fleet behind ``fleet0``, a cluster behind ``eth0``."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import ipaddress
import json
import os
import selectors
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from cnf.vip import counters, writer
from cnf.vip.firewall import Firewall, NodeFirewall
from cnf.vip.table import Backend, BackendAddress, ExportedPort, Frontend, Protocol, VipTable

NODE = "10.113.0.0"
CLIENT = "10.113.0.2"
CLIENTS = [f"10.113.0.{number}" for number in range(2, 8)]
SERVERS = ["10.113.0.10", "10.113.0.11", "10.113.0.12"]
SIBLING_NODE = "10.113.0.128"
SIBLING = "10.113.0.130"
"""A pod on another node of the cluster."""
FOREIGN = "10.114.0.2"
"""A pod of another cluster."""
FOREIGN_BLOCK = ipaddress.IPv4Network("10.114.0.0/22")
THIRD = "10.115.0.2"
"""A pod of a third cluster."""
VIP = "10.112.0.7"
NAMESPACES = ("cnf", "pods", "servers", "far", "uplink")
UPLINK = "192.0.2.1"
CNF_UPLINK = "192.0.2.2"
AT_ONCE_S = 0.9
"""Within which a refusal is one of the first packet: TCP sends it again after a second."""
AT_ONCE_TRIES = 3
"""A loaded machine delays a packet by longer now and then; a refusal that comes late by design does so every time."""

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
# A datagram a millisecond fills the usual buffer in 0.3 s, for which a loaded machine may well not run the echo.
SO_RCVBUFFORCE = 33
_PREFIX = f"vip{os.getpid()}"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def ip(namespace: str, line: str) -> None:
    run("ip", "-n", name(namespace), *line.split())


def name(namespace: str) -> str:
    return f"{_PREFIX}-{namespace}"


def _enter(descriptor: int) -> None:
    assert ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) == 0


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Run the calling thread, and the processes it starts, in a namespace."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name(namespace)}", os.O_RDONLY)
    try:
        _enter(there)
        yield
    finally:
        _enter(before)
        os.close(before)
        os.close(there)


def firewall() -> NodeFirewall:
    return NodeFirewall(
        fleet=(ipaddress.ip_network("10.112.0.0/12"),),
        vips=(ipaddress.ip_network("10.112.0.0/16"),),
        own=(ipaddress.ip_network("10.113.0.0/22"),),
        node_addresses=(ipaddress.ip_address(NODE),),
        other_nodes=(ipaddress.ip_address(SIBLING_NODE),),
    )


def frontend(port: int = 80, protocol: Protocol = "tcp", *, vip: str = VIP) -> Frontend:
    return Frontend(ipaddress.ip_address(vip), protocol, port)


def backend(servers: list[str], port: int = 8080, *, sticky: bool = False) -> Backend:
    return Backend(
        tuple(BackendAddress(ipaddress.ip_address(server), port) for server in sorted(servers)), sticky=sticky
    )


def vips(
    *rows: tuple[Frontend, Backend], exported: frozenset[ExportedPort] = frozenset(), hairpin: str = ""
) -> VipTable:
    local = frozenset([ipaddress.ip_address(hairpin)]) if hairpin else frozenset()
    return VipTable(backends=dict(rows), exported=exported, hairpin=local)


def exported(address: str, port: int, protocol: Protocol = "tcp") -> frozenset[ExportedPort]:
    return frozenset([ExportedPort(ipaddress.ip_address(address), protocol, port)])


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@dataclasses.dataclass(frozen=True)
class Answer:
    """Who answered a request, and whom it saw as the client."""

    server: str
    port: int
    client: str

    @classmethod
    def parse(cls, answer: bytes) -> Answer:
        server, port, client = answer.decode().split()
        return cls(server, int(port), client)


class Echo:
    """Answers on sockets of any namespace with its own address and the client's."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def listen(self, namespace: str, address: str, port: int, *, udp: bool = False) -> None:
        with inside(namespace):
            sock = socket.socket(_family(address), socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if udp:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        sock.bind((address, port))
        if not udp:
            sock.listen(512)
        self._selector.register(sock, selectors.EVENT_READ, (address, port, udp))

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(timeout=0.05):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                address, port, udp = key.data
                if udp:
                    _, peer = sock.recvfrom(100)
                    sock.sendto(f"{address} {port} {peer[0]}".encode(), peer)
                else:
                    connection, peer = sock.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.sendall(f"{address} {port} {peer[0]}".encode())


def ask(source: str, target: str, port: int = 80, *, namespace: str = "pods", timeout_s: float = 10) -> Answer:
    """Connect by TCP and return the answer."""
    with inside(namespace):
        sock = socket.socket(_family(source))
    with sock:
        sock.settimeout(timeout_s)
        sock.bind((source, 0))
        sock.connect((target, port))
        return Answer.parse(sock.recv(100))


def at_once(asked: Callable[[], T]) -> T:
    """Return or raise what ``asked`` does; a ``TimeoutError`` only if every one of ``AT_ONCE_TRIES`` ends so."""
    for _ in range(AT_ONCE_TRIES - 1):
        with contextlib.suppress(TimeoutError):
            return asked()
    return asked()


def ask_at_once(source: str, target: str, port: int = 80, *, namespace: str = "pods") -> Answer:
    """Ask within ``AT_ONCE_S``, again where that was silent."""
    return at_once(lambda: ask(source, target, port, namespace=namespace, timeout_s=AT_ONCE_S))


def udp_socket(source: str, *, namespace: str = "pods", timeout_s: float = 10) -> socket.socket:
    with inside(namespace):
        sock = socket.socket(_family(source), socket.SOCK_DGRAM)
    sock.settimeout(timeout_s)
    sock.bind((source, 0))
    return sock


def exchange(sock: socket.socket, target: str, port: int) -> Answer:
    """Send a datagram and return the answer."""
    sock.connect((target, port))
    sock.send(b"?")
    return Answer.parse(sock.recv(100))


def build() -> None:
    for namespace in NAMESPACES:
        run("ip", "netns", "add", name(namespace))
        ip(namespace, "link set lo up")
    wire()


def replace_cnf() -> None:
    """Put a new namespace in the place of cnf's, as a replaced pod does: every interface dies with the old one."""
    run("ip", "netns", "del", name("cnf"))
    run("ip", "netns", "add", name("cnf"))
    ip("cnf", "link set lo up")
    deadline = time.monotonic() + 60
    while any("@" in run("ip", "-n", name(other), "-br", "link") for other in NAMESPACES if other != "cnf"):
        assert time.monotonic() < deadline, "the old interfaces are still there"
        time.sleep(0.02)


def wire() -> None:
    """Give cnf's namespace its interfaces."""
    ip("cnf", f"addr add {NODE}/32 dev lo")
    _attach("pods", "fvclient", CLIENTS)
    _attach("servers", "fvserver", SERVERS)
    _join("far", "fleet0", "198.51.100.1/30", "198.51.100.2/30")
    _join("uplink", "eth0", f"{CNF_UPLINK}/30", f"{UPLINK}/30")
    for address in (SIBLING, FOREIGN, THIRD):
        ip("far", f"addr add {address}/32 dev peer")
    ip("cnf", "link set fleet0 mtu 1360")
    ip("far", "route add 10.112.0.0/12 via 198.51.100.1")
    ip("cnf", f"route add 10.112.0.0/12 via 198.51.100.2 src {NODE}")
    ip("cnf", f"route add default via {UPLINK}")
    ip("uplink", f"route add default via {CNF_UPLINK}")
    for key in ("net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0"):
        run("ip", "netns", "exec", name("cnf"), "sysctl", "-qw", key)
    # The kernel starts a link's queue some time after its carrier is there (linkwatch), and drops until then.
    deadline = time.monotonic() + 60
    while not all(_is_up(namespace) for namespace in NAMESPACES):
        assert time.monotonic() < deadline, "a link is still not up"
        time.sleep(0.01)


def _is_up(namespace: str) -> bool:
    """Return whether all interfaces of a namespace carry packets."""
    shown = json.loads(run("ip", "-n", name(namespace), "-j", "link", "show", "up"))
    return all(link["operstate"] == "UP" for link in shown if link["ifname"] != "lo")


def _attach(namespace: str, interface: str, addresses: list[str]) -> None:
    run(
        "ip",
        "link",
        "add",
        interface,
        "netns",
        name("cnf"),
        "type",
        "veth",
        "peer",
        "name",
        "net1",
        "netns",
        name(namespace),
    )
    ip("cnf", f"link set {interface} up")
    ip(namespace, "link set net1 up")
    for address in addresses:
        ip(namespace, f"addr add {address}/32 dev net1")
        ip("cnf", f"route add {address}/32 dev {interface} src {NODE}")
    ip(namespace, f"route add {NODE}/32 dev net1")
    ip(namespace, f"route add default via {NODE}")


def _join(namespace: str, interface: str, near: str, far: str) -> None:
    run(
        "ip",
        "link",
        "add",
        interface,
        "netns",
        name("cnf"),
        "type",
        "veth",
        "peer",
        "name",
        "peer",
        "netns",
        name(namespace),
    )
    ip("cnf", f"addr add {near} dev {interface}")
    ip("cnf", f"link set {interface} up")
    ip(namespace, f"addr add {far} dev peer")
    ip(namespace, "link set peer up")


def remove() -> None:
    for namespace in NAMESPACES:
        subprocess.run(["ip", "netns", "del", name(namespace)], capture_output=True, check=False, timeout=20)


@contextlib.contextmanager
def running() -> Iterator[Echo]:
    """Build the node for as long as the tests of one module need it."""
    remove()
    build()
    echo = Echo()
    try:
        yield echo
    finally:
        echo.close()
        remove()


@contextlib.contextmanager
def serving() -> Iterator[Echo]:
    """Build it with servers that answer, by TCP on port 8080 and by UDP on port 8053."""
    with running() as echo:
        for server in SERVERS:
            echo.listen("servers", server, 8080)
            echo.listen("servers", server, 8053, udp=True)
        yield echo


class Node:
    """A firewall writer in cnf's namespace, from the start of its process."""

    def __init__(self, rules: Firewall | None = None) -> None:
        self.firewall_writer = writer.FirewallWriter()
        with inside("cnf"):
            self.firewall_writer.set_base(rules or firewall())

    def sync(self, table: VipTable) -> None:
        with inside("cnf"):
            self.firewall_writer.sync({"": table})

    def counters(self) -> dict[str, int]:
        with inside("cnf"):
            return {counter: count.packets for counter, count in counters.read().items()}


def forget_connections() -> None:
    """Empty cnf's connection tracking table, as a replaced pod's is."""
    delete = struct.pack("=IHHII", 20, 0x102, 0x5, 1, 0) + bytes(4)
    with inside("cnf"), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        sock.settimeout(3)
        sock.send(delete)
        assert struct.unpack_from("=i", sock.recv(1000), 16)[0] == 0


def accept_any(listeners: list[socket.socket], *, timeout_s: float = 10) -> tuple[socket.socket, str]:
    """Accept the connection that comes to any of them."""
    with selectors.DefaultSelector() as waiting:
        for listener in listeners:
            waiting.register(listener, selectors.EVENT_READ)
        ready = waiting.select(timeout=timeout_s)
    assert ready, f"no connection within {timeout_s} s"
    accepting = ready[0][0].fileobj
    assert isinstance(accepting, socket.socket)
    connection, peer = accepting.accept()
    return connection, str(peer[0])


def read_exactly(sock: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        found += sock.recv(count - len(found)) or b"?" * count
    return found
