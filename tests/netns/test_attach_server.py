"""The CNI socket with a real service behind it: descriptors passed, callers that hang up, strangers."""

from __future__ import annotations

import array
import concurrent.futures
import contextlib
import dataclasses
import ipaddress
import json
import os
import pathlib
import socket
import threading
from collections.abc import Callable, Iterator

import netlab
import pytest
from netlab import Net, Nets

from cnf.attach import frames
from cnf.attach.node_network.network import NodeNetwork
from cnf.attach.server import CniServer
from cnf.attach.service import CniService
from cnf.attach.settings import CniHooks, CniSettings
from cnf.attach.spool import Spool
from cnf.netlink.namespace import NetworkNamespace

pytestmark = pytest.mark.netns

NETWORK = NodeNetwork(
    node_address=ipaddress.ip_address("10.112.4.0"),
    blocks=(ipaddress.ip_network("10.112.4.0/26"),),
    fleet=(ipaddress.ip_network("10.112.0.0/12"),),
    mtu=1360,
)
CONFIG = b'{"cniVersion":"1.0.0","name":"fleetboard","type":"fleetboard"}'


@dataclasses.dataclass
class Node:
    """A service that listens."""

    nets: Nets
    path: pathlib.Path
    cni: CniService
    node_netns: Net

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(60)
        sock.connect(str(self.path))
        return sock

    def call(self, verb: str, container: str, pod: Net | None) -> tuple[int, bytes]:
        """Call as the CNI executable does."""
        with self.connect() as sock:
            send(sock, frame(verb, container, pod), pod)
            return receive(sock)


def frame(verb: str, container: str, pod: Net | None) -> bytes:
    env = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": container,
        "CNI_IFNAME": "net1",
        "CNI_NETNS": str(pod.path) if pod else "",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container};K8S_POD_UID=u",
    }
    return frames.render_request(env, CONFIG)


def send(sock: socket.socket, request: bytes, pod: Net | None) -> None:
    descriptors = [os.open(pod.path, os.O_RDONLY)] if pod and pod.path.exists() else []
    try:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        sock.sendmsg([request[:1]], rights)
        sock.sendall(request[1:])
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def receive(sock: socket.socket) -> tuple[int, bytes]:
    content = b""
    while chunk := sock.recv(65536):
        content += chunk
    head, _, stdout = content.partition(b"\n")
    code, length = (int(part) for part in head.split())
    assert length == len(stdout)
    return code, stdout


@contextlib.contextmanager
def listening(server: CniServer) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=server.run, args=(stop,))
    thread.start()
    try:
        assert server.listening.wait(10)
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def node(nets: Nets, tmp_path: pathlib.Path) -> Iterator[Node]:
    node_netns = nets.make("node")
    with NetworkNamespace.open(node_netns.path) as handle:
        cni = CniService(
            CniSettings(state_dir=tmp_path / "state", netns_dir=netlab.FOLDER),
            node_netns=handle,
            hooks=CniHooks(on_change=lambda: None),
        )
        cni.restore()
        cni.set_network(NETWORK)
        path = tmp_path / "run" / "cni.sock"
        with listening(CniServer(path, cni.calls.call)):
            yield Node(nets, path, cni, node_netns)
        cni.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_add_and_delete_over_the_socket(node: Node) -> None:
    pod = node.nets.make()
    code, stdout = node.call("ADD", "one", pod)
    assert code == 0
    assert json.loads(stdout)["ips"][0]["address"] == "10.112.4.1/32"
    assert pod.answers_ping("10.112.4.0")
    assert node.call("DEL", "one", pod) == (0, b"")
    assert "net1" not in pod.run("ip", "link")


def test_no_delete_waits_behind_adds_that_wait_for_a_block(
    node: Node, eventually: Callable[[Callable[[], object]], None]
) -> None:
    tiny = ipaddress.ip_network("10.112.4.0/31")
    node.cni.set_network(dataclasses.replace(NETWORK, blocks=(tiny,)))
    first = node.nets.make()
    assert node.call("ADD", "first", first)[0] == 0
    node.cni.calls.address_timeout_s = 25
    late = [node.nets.make() for _ in range(30)]
    with concurrent.futures.ThreadPoolExecutor(30) as callers:
        waiting = [callers.submit(node.call, "ADD", f"late{number}", pod) for number, pod in enumerate(late)]
        eventually(lambda: node.cni.waiting == 30)
        assert node.call("DEL", "first", first) == (0, b"")
        assert not any(call.done() for call in waiting)
        node.cni.set_network(dataclasses.replace(NETWORK, blocks=(tiny, ipaddress.ip_network("10.112.4.64/26"))))
        answers = [call.result(30) for call in waiting]
    assert [code for code, _ in answers] == [0] * 30
    assert len({json.loads(stdout)["ips"][0]["address"] for _, stdout in answers}) == 30


def test_an_error_is_printed_and_sets_the_exit_code(node: Node) -> None:
    code, stdout = node.call("ADD", "one", None)
    assert code == 1
    assert json.loads(stdout)["code"] == 4


def test_a_socket_is_its_owners_alone(node: Node) -> None:
    assert node.path.stat().st_mode & 0o777 == 0o600


def test_the_server_hangs_up_on_another_user(node: Node, tmp_path: pathlib.Path) -> None:
    calls: list[frames.Request] = []

    def call(request: frames.Request) -> frames.Response:
        calls.append(request)
        return frames.Response(0, b"")

    path = tmp_path / "other.sock"
    with listening(CniServer(path, call, allowed_uid=12345)), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        assert sock.recv(10) == b""
    assert calls == []


def test_the_server_hangs_up_on_bytes_that_are_not_a_call(node: Node) -> None:
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"x" * 5000, b"FLEETCNI/1 9 9\nshort"):
        with node.connect() as sock:
            sock.sendall(noise)
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(10) == b""
    assert (
        node.call("STATUS", "x", None)[0] == 1
    )  # 1.0.0 has no STATUS, so an answer shows that the server still serves


def test_a_caller_that_hangs_up_while_it_waits_leaves_nothing(
    node: Node, eventually: Callable[[Callable[[], object]], None]
) -> None:
    first, pod = node.nets.make(), node.nets.make()
    assert node.call("ADD", "first", first)[0] == 0
    full = dataclasses.replace(NETWORK, blocks=(ipaddress.ip_network("10.112.4.0/31"),))
    node.cni.set_network(full)
    with node.connect() as sock:
        send(sock, frame("ADD", "one", pod), pod)
        eventually(lambda: node.cni.waiting == 1)
    # Its caller is gone when an address is free.
    eventually(lambda: node.cni.waiting == 0)
    node.cni.set_network(NETWORK)
    eventually(lambda: "net1" not in pod.run("ip", "link"))
    assert [a.pod_name for a in node.cni.attachments()] == ["first"]


def test_a_plain_file_in_place_of_a_namespace_is_refused(node: Node, tmp_path: pathlib.Path) -> None:
    plain = Net("x")
    plain.path = tmp_path / "plain"
    plain.path.write_text("")
    code, stdout = node.call("ADD", "one", plain)
    assert (code, json.loads(stdout)["code"]) == (1, 8)
    assert node.call("DEL", "one", plain) == (0, b"")


def test_calls_leak_no_descriptor(node: Node, eventually: Callable[[Callable[[], object]], None]) -> None:
    pods = [node.nets.make() for _ in range(8)]

    def cycle() -> None:
        with concurrent.futures.ThreadPoolExecutor(8) as callers:
            assert set(callers.map(lambda i: node.call("ADD", f"c{i}", pods[i])[0], range(8))) == {0}
            assert set(callers.map(lambda i: node.call("DEL", f"c{i}", pods[i])[0], range(8))) == {0}

    cycle()
    before = open_descriptors()
    for _ in range(3):
        cycle()
    eventually(lambda: open_descriptors() <= before + 4)


def test_a_deletion_that_waited_in_the_spool_is_served(node: Node, tmp_path: pathlib.Path) -> None:
    pod = node.nets.make()
    node.call("ADD", "one", pod)
    folder = tmp_path / "del"
    folder.mkdir()
    (folder / "one-net1").write_bytes(frame("DEL", "one", pod))
    assert Spool(folder, node.cni.calls.call).replay() == 1
    assert "net1" not in pod.run("ip", "link")
    assert node.cni.attachments() == []


def test_a_spooled_deletion_older_than_the_attachment_changes_nothing(node: Node, tmp_path: pathlib.Path) -> None:
    pod = node.nets.make()
    folder = tmp_path / "del"
    folder.mkdir()
    (folder / "one-net1").write_bytes(frame("DEL", "one", pod))
    os.utime(folder / "one-net1", (1000, 1000))
    node.call("ADD", "one", pod)
    assert Spool(folder, node.cni.calls.call).replay() == 1
    assert pod.answers_ping("10.112.4.0")
    assert list(folder.iterdir()) == []


def test_a_second_server_takes_over_the_path(node: Node) -> None:
    with listening(CniServer(node.path, lambda request: frames.Response(7, b"second"))):
        assert node.call("ADD", "x", None) == (7, b"second")
    assert not node.path.exists()
