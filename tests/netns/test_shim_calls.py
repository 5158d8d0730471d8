"""Every verb through the packed executable, as a process: what it prints, how it exits, what it leaves."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import json
import pathlib
import re
import subprocess
from collections.abc import Callable, Iterator

import packed_shim
import pytest
import shim_node
from netlab import Net, Nets
from shim_node import Node, environ

pytestmark = pytest.mark.netns

VERSIONS = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
NEW = {"cniVersion": "1.1.0"}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return packed_shim.install(packed_shim.pack(), tmp_path_factory.mktemp("bin"))


@pytest.fixture
def node(nets: Nets, tmp_path: pathlib.Path, shim: pathlib.Path) -> Iterator[Node]:
    with shim_node.make_node(nets, tmp_path, shim) as made, made.serving():
        yield made


def test_a_pod_is_attached_and_detached(node: Node) -> None:
    pod = node.nets.make()
    added = node.call("ADD", "one", pod)
    assert (added.status, added.stderr) == (0, b"")
    assert added.content["ips"] == [{"interface": 0, "address": "10.112.4.1/32", "gateway": "10.112.4.0"}]
    assert added.content["interfaces"][0]["sandbox"] == str(pod.path)
    assert pod.answers_ping("10.112.4.0")
    assert node.call("DEL", "one", pod) == shim_node.Answer(0, b"", b"")
    assert "net1" not in pod.run("ip", "link")
    assert node.call("DEL", "one", pod) == shim_node.Answer(0, b"", b"")


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_gets_its_own_shape(node: Node, version: str) -> None:
    result = node.call("ADD", "one", node.nets.make(), config={"cniVersion": version}).content
    assert result["cniVersion"] == version
    assert ("version" in result["ips"][0]) == (version < "1.0.0")
    assert ("mtu" in result["interfaces"][0]) == (version == "1.1.0")
    assert all("gw" in route for route in result["routes"])


def test_version_is_answered_without_reading_stdin(node: Node) -> None:
    with node.start({"CNI_COMMAND": "VERSION", "CNI_NETNS": "dummy", "CNI_IFNAME": "dummy"}) as process:
        assert process.stdout is not None
        # stdin stays open all the while.
        assert json.loads(process.stdout.read())["supportedVersions"] == VERSIONS
        assert process.wait(10) == 0


def test_check_follows_what_add_said(node: Node) -> None:
    pod = node.nets.make()
    result = node.call("ADD", "one", pod).content
    assert node.call("CHECK", "one", pod, config={"prevResult": result}) == shim_node.Answer(0, b"", b"")
    assert node.call("CHECK", "one", pod).code == 7
    pod.run("ip", "link", "set", "net1", "down")
    assert node.call("CHECK", "one", pod, config={"prevResult": result}).code == 102
    assert node.call("CHECK", "one", pod, config={"cniVersion": "0.3.1", "prevResult": result}).code == 1


def test_status_tells_whether_an_add_would_work(node: Node) -> None:
    assert node.call("STATUS", "", None, config=NEW) == shim_node.Answer(0, b"", b"")
    node.plane.set_network(dataclasses.replace(shim_node.NETWORK, blocks=()))
    assert node.call("STATUS", "", None, config=NEW).code == 50
    assert node.call("STATUS", "", None).code == 1


def test_gc_leaves_what_lives(node: Node) -> None:
    pod = node.nets.make()
    node.call("ADD", "one", pod)
    unknown: list[object] | None = None
    for valid in (unknown, []):
        gone = node.call("GC", "", None, config={**NEW, "cni.dev/valid-attachments": valid})
        assert gone == shim_node.Answer(0, b"", b"")
    assert pod.answers_ping("10.112.4.0")


def test_without_a_command_it_says_what_it_is(node: Node) -> None:
    answer = node.execute({})
    assert (answer.status, answer.stdout) == (0, b"")
    assert b"1.1.0" in answer.stderr


@pytest.mark.parametrize("command", ["add", "REMOVE"])
def test_an_unknown_command_is_refused_by_name(node: Node, command: str) -> None:
    answer = node.call(command, "one", None)
    assert answer.code == 4
    assert "CNI_COMMAND" in answer.content["msg"]


def test_all_missing_variables_are_named_at_once(node: Node) -> None:
    answer = node.execute({"CNI_COMMAND": "ADD"}, b"{}")
    assert answer.code == 4
    for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"):
        assert name in answer.content["msg"]


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b"\xff\xfe", b"\0" * 100])
def test_a_configuration_that_is_none_is_refused(node: Node, stdin: bytes) -> None:
    assert node.execute(environ("ADD", "one", node.nets.make()), stdin).code == 6


def test_a_configuration_without_end_is_refused_early(node: Node) -> None:
    command = node.command(environ("ADD", "one", node.nets.make()))
    with pathlib.Path("/dev/zero").open("rb") as endless:
        done = subprocess.run(command, stdin=endless, capture_output=True, timeout=20, check=False)
    assert shim_node.Answer(done.returncode, done.stdout, done.stderr).code == 6


def test_a_closed_stdin_is_an_answer_too(node: Node) -> None:
    answer = node.execute(environ("ADD", "one", node.nets.make()), prepare="exec <&-")
    assert (answer.code, answer.stderr) == (5, b"")


@pytest.mark.parametrize("container", ["../x", "-a", "a b", "ä"])
def test_a_container_id_that_could_be_a_path_is_refused(node: Node, container: str) -> None:
    assert node.call("ADD", container, node.nets.make()).code == 4


def test_odd_arguments(node: Node) -> None:
    pod = node.nets.make()
    assert node.call("ADD", "one", pod, CNI_ARGS="FOO=bar").code == 4
    assert node.call("ADD", "one", pod, CNI_ARGS="IgnoreUnknown").code == 4
    twice = "IgnoreUnknown=true;K8S_POD_NAME=a;;FOO=bar;IgnoreUnknown=1;K8S_POD_NAME=one;IP=10.112.4.9;"
    assert node.call("ADD", "one", pod, CNI_ARGS=twice).content["ips"][0]["address"] == "10.112.4.9/32"
    assert [attachment.pod_name for attachment in node.plane.attachments()] == ["one"]


def test_what_the_runtime_asks_for_comes_before_the_arguments(node: Node) -> None:
    asked = {"ips": ["10.112.4.20/12"], "mac": "0a:58:0a:70:04:14"}
    args = "IgnoreUnknown=1;IP=10.112.4.9;MAC=0a:58:0a:70:04:99"
    result = node.call("ADD", "one", node.nets.make(), config={"runtimeConfig": asked}, CNI_ARGS=args).content
    assert result["ips"][0]["address"] == "10.112.4.20/32"
    assert result["interfaces"][0]["mac"] == asked["mac"]
    outside = node.call("ADD", "two", node.nets.make(), config={"runtimeConfig": {"ips": ["192.0.2.1"]}})
    assert outside.status == 1
    assert "192.0.2.1" in outside.content["msg"]


def test_results_of_a_chain_are_passed_on(node: Node) -> None:
    before = {
        "interfaces": [{"name": "eth0", "sandbox": "x"}],
        "ips": [{"interface": 0, "address": "10.0.0.5/24"}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["10.0.0.1"]},
    }
    result = node.call("ADD", "one", node.nets.make(), config={"prevResult": before}).content
    assert [interface["name"] for interface in result["interfaces"]] == ["eth0", "net1"]
    assert [ip["interface"] for ip in result["ips"]] == [0, 1]
    assert result["dns"] == before["dns"]


def test_an_interface_that_is_there_is_refused_and_left(node: Node) -> None:
    pod = node.nets.make()
    pod.run("ip", "link", "add", "net1", "type", "bridge")
    assert node.call("ADD", "one", pod).code == 100
    assert node.call("DEL", "one", pod).status == 0
    assert "bridge" in pod.run("ip", "-d", "link", "show", "net1")
    assert node.plane.usage().used == 0


def test_a_namespace_that_is_none_is_refused_and_its_deletion_works(node: Node, tmp_path: pathlib.Path) -> None:
    plain = Net("x")
    for path in (tmp_path / "missing", tmp_path / "plain", tmp_path):
        plain.path = path
        assert node.call("ADD", "one", plain).code == 8
        assert node.call("DEL", "one", plain).status == 0
        (tmp_path / "plain").touch()


def test_pods_at_once_get_addresses_of_their_own(node: Node) -> None:
    pods = {f"c{number}": node.nets.make() for number in range(16)}
    with concurrent.futures.ThreadPoolExecutor(16) as runtimes:
        found = list(runtimes.map(lambda item: node.call("ADD", *item).content["ips"][0]["address"], pods.items()))
        assert len(set(found)) == 16
        assert {answer.status for answer in runtimes.map(lambda item: node.call("DEL", *item), pods.items())} == {0}
    assert node.plane.attachments() == []


def test_a_call_that_is_killed_leaves_nothing(node: Node, eventually: Callable[[Callable[[], object]], None]) -> None:
    first, pod = node.nets.make(), node.nets.make()
    assert node.call("ADD", "first", first).status == 0
    node.plane.set_network(dataclasses.replace(shim_node.NETWORK, blocks=(ipaddress.ip_network("10.112.4.0/31"),)))
    with node.start(environ("ADD", "one", pod)) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(shim_node.CONFIG).encode())
        process.stdin.close()
        # It waits for an address, its caller loses patience, and then there is one.
        eventually(lambda: node.plane._supply._waiting)
        process.kill()
    eventually(lambda: not node.plane._supply._waiting)
    node.plane.set_network(shim_node.NETWORK)
    eventually(lambda: "net1" not in pod.run("ip", "link"))
    assert [attachment.pod_name for attachment in node.plane.attachments()] == ["first"]


def test_it_needs_less_than_ten_megabytes(node: Node, eventually: Callable[[Callable[[], object]], None]) -> None:
    with node.start(environ("STATUS", "", None)) as process:
        kernel = pathlib.Path(f"/proc/{process.pid}")
        # It waits for its stdin: from here on it only sends what it reads.
        eventually(
            lambda: (
                (kernel / "comm").read_text() == "fleetboard\n" and (kernel / "wchan").read_text().endswith("pipe_read")
            )
        )
        peak = re.search(r"VmHWM:\s+(\d+) kB", (kernel / "status").read_text())
        process.communicate(b"{}", timeout=10)
    assert peak is not None
    print(f"\nthe CNI executable takes {int(peak[1]) / 1024:.1f} MB")
    assert int(peak[1]) < 10 * 1024
