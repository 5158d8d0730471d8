"""Disks that are full, read-only or lost: real file systems in memory, small enough to fill."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import pathlib
import shutil
import subprocess
import zlib
from collections.abc import Iterator

import pytest
from quick_nets import QuickNet, QuickNets

from cnf.attach import frames
from cnf.attach.node_network.network import NodeNetwork
from cnf.attach.service import CniService
from cnf.attach.settings import CniHooks, CniSettings
from cnf.netlink.namespace import NetworkNamespace

pytestmark = pytest.mark.netns

BLOCK, SECOND = ipaddress.ip_network("10.112.4.0/26"), ipaddress.ip_network("10.112.4.64/26")
NETWORK = NodeNetwork(BLOCK.network_address, (BLOCK,), (ipaddress.ip_network("10.112.0.0/12"),), 1360)


class Disk:
    """A file system of 64 KiB."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path], check=True)

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.path / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def empty(self) -> None:
        (self.path / "filler").unlink()

    def set_writable(self, writable: bool) -> None:
        mode = "rw" if writable else "ro"
        subprocess.run(["mount", "-o", f"remount,{mode},size=64k", self.path], check=True)

    def remove(self) -> None:
        subprocess.run(["umount", "-l", self.path], check=True)


class Node:
    """A node whose state is on that disk."""

    def __init__(self, nets: QuickNets, disk: Disk) -> None:
        self.disk, self.nets = disk, nets
        self.node_netns = nets.make("node")
        self.pods: dict[str, QuickNet] = {}
        self.begin()
        self.cni.set_network(NETWORK)

    def begin(self, *, boot: str = "boot 1") -> None:
        self.handle = NetworkNamespace.open(self.node_netns.path)
        self.cni = CniService(
            CniSettings(
                state_dir=self.disk.path / "state",
                netns_dir=self.nets.folder,
                node="n",
                address_timeout_s=0,
                boot_id=boot,
            ),
            node_netns=self.handle,
            hooks=CniHooks(on_change=lambda: None),
        )
        self.summary = self.cni.restore()

    def end(self) -> None:
        self.cni.close()
        self.handle.close()

    def restart(self, **how: str) -> None:
        self.end()
        self.begin(**how)

    def call(self, verb: str, container: str) -> frames.Response:
        if container not in self.pods:
            self.pods[container] = self.nets.make(container)
        net = self.pods[container]
        env = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": "net1",
            "CNI_NETNS": str(net.path),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container};K8S_POD_UID=u-{container}",
        }
        with NetworkNamespace.open(net.path) as opened:
            return self.cni.calls.call(frames.Request(env, b'{"cniVersion":"1.1.0","name":"fleetboard"}', opened))

    def add(self, container: str) -> str:
        response = self.call("ADD", container)
        assert response.code == 0, response.stdout
        return str(json.loads(response.stdout)["ips"][0]["address"]).partition("/")[0]

    def held(self) -> dict[str, str]:
        return {one.pod_name: one.addresses[0] for one in self.cni.attachments()}

    def has_address(self, container: str, address: str) -> bool:
        with NetworkNamespace.open(self.pods[container].path) as inside:
            return inside.holds(ipaddress.ip_address(address))


@pytest.fixture
def node(quick: QuickNets, tmp_path: pathlib.Path) -> Iterator[Node]:
    disk = Disk(tmp_path / "disk")
    try:
        made = Node(quick, disk)
        yield made
        made.end()
    finally:
        disk.remove()


def refusal(response: frames.Response) -> tuple[int, str]:
    content = json.loads(response.stdout)
    return content["code"], content["msg"]


def fill_up(node: Node) -> str:
    """ADD until the journal can't grow; return the container that was refused."""
    node.disk.fill()
    for number in range(60):
        response = node.call("ADD", f"fill{number}")
        if response.code:
            assert refusal(response) == (11, "the node's address journal can't be written")
            return f"fill{number}"
    raise AssertionError("the disk never filled")


def test_a_full_disk_refuses_adds_and_serves_everything_else(node: Node) -> None:
    kept, gone = node.add("kept"), node.add("gone")
    refused = fill_up(node)
    before = node.held()
    assert refused not in before
    assert not any(node.has_address(refused, str(address)) for address in BLOCK)
    assert refusal(node.call("STATUS", "kept"))[0] == 50
    assert node.call("DEL", "gone").code == 0
    assert "gone" not in node.held()
    node.disk.empty()
    assert node.call("STATUS", "kept").code == 0
    new = node.add(refused)
    assert new not in (kept, gone, *before.values())
    assert node.has_address("kept", kept)


def test_a_process_that_ends_on_a_full_disk_finds_what_it_had(node: Node) -> None:
    kept = node.add("kept")
    gone = node.add("gone")
    refused = fill_up(node)
    held = node.held()
    assert node.call("DEL", "gone").code == 0  # the disk doesn't record it
    node.restart()
    assert {name: address for name, address in held.items() if name != "gone"}.items() <= node.held().items()
    assert node.has_address("kept", kept)
    assert refusal(node.call("ADD", refused))[0] == 11
    assert node.call("DEL", "gone").code == 0
    node.disk.empty()
    assert node.add(refused) != gone
    assert len(set(node.held().values())) == len(node.held())


def test_a_disk_that_turns_read_only_keeps_no_pod_from_being_served(node: Node) -> None:
    kept = node.add("kept")
    node.add("gone")
    node.end()
    node.disk.set_writable(False)
    node.begin()
    assert (node.summary.adopted, node.held()["kept"]) == (2, kept)
    assert refusal(node.call("ADD", "new")) == (11, "the node's address journal can't be written")
    assert node.call("DEL", "gone").code == 0
    assert node.held() == {"kept": kept}
    node.end()
    node.disk.set_writable(True)
    node.begin()
    assert node.add("new") != kept
    assert node.has_address("kept", kept)


def test_a_lost_disk_is_rebuilt_from_the_kernel(node: Node) -> None:
    held = {name: node.add(name) for name in ("one", "two")}
    node.end()
    shutil.rmtree(node.disk.path / "state")
    node.begin()
    assert node.summary.recovered == 2
    assert {one.addresses[0] for one in node.cni.attachments()} == set(held.values())
    node.cni.set_network(NETWORK)
    assert node.add("three") not in held.values()


def test_a_copied_state_folder_allocates_no_address_of_its_first_node(node: Node, tmp_path: pathlib.Path) -> None:
    held = node.add("one")
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copytree(node.disk.path / "state", copy / "state")
    node_netns = node.nets.make("another")
    with NetworkNamespace.open(node_netns.path) as handle:
        other = CniService(
            CniSettings(
                state_dir=copy / "state",
                netns_dir=tmp_path / "nothing",
                node="another",
                address_timeout_s=0,
                boot_id="boot 1",
            ),
            node_netns=handle,
            hooks=CniHooks(on_change=lambda: None),
        )
        other.restore()
        assert other.network() is None
        assert other.attachments() == []
        other.set_network(NodeNetwork(SECOND.network_address, (SECOND,), NETWORK.fleet, 1360))
        assert (other.usage().used, other.usage().free) == (0, 63)
        other.close()
    assert node.held() == {"one": held}


def test_a_journal_of_a_later_version_costs_no_pod_its_address(node: Node) -> None:
    held = node.add("one")
    node.end()
    journal = node.disk.path / "state" / "journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    # Whole lines with entries that this version doesn't know.
    journal.write_bytes(b"".join(later(line) for line in lines))
    node.begin()
    assert node.summary.damaged == len(lines)
    assert set(node.held().values()) == {held}
    assert node.add("two") != held


def later(line: bytes) -> bytes:
    body = line[18:-1].replace(b'"entry":"', b'"entry":"later ')
    return f"{len(body):08x} {zlib.crc32(body):08x} ".encode() + body + b"\n"
