"""The packed executable names what is wrong in environment and configuration (CNI 1 to 8 in README.md)."""

from __future__ import annotations

import json
import pathlib
import subprocess
from typing import Any

import pytest
import shim_node
from shim_node import Node, environ

pytestmark = pytest.mark.netns

VERSIONS = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]


def refused(node: Node, verb: str, *, stdin: Any, **over: str) -> tuple[int, str]:
    """Make a call that is refused; return the code, and all that it says."""
    answer = node.execute(environ(verb, "one", node.node_netns, **over), json.dumps(stdin).encode())
    assert answer.stderr == b""
    return answer.code, answer.content["msg"] + answer.content.get("details", "")


def test_cni1_an_unknown_command_is_refused_by_name(node: Node) -> None:
    for command in ("", "add", "REMOVE", "ADD "):
        env = {**environ("ADD", "one", node.node_netns), "CNI_COMMAND": command}
        answer = node.execute(env, json.dumps(shim_node.CONFIG).encode())
        assert answer.code == 4
        assert f"CNI_COMMAND is '{command}'" in answer.content["msg"]


def test_cni1_without_a_command_it_says_what_it_is(node: Node) -> None:
    answer = node.execute({})
    assert (answer.status, answer.stdout) == (0, b"")
    assert all(version.encode() in answer.stderr for version in VERSIONS)


def test_cni2_all_missing_variables_are_named_at_once(node: Node) -> None:
    for verb, missing in (
        ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID,CNI_IFNAME"),
        ("GC", "CNI_PATH"),
    ):
        answer = node.execute({"CNI_COMMAND": verb}, b'{"cniVersion":"1.1.0","name":"fleetboard"}')
        assert (answer.code, answer.content["msg"]) == (4, f"required env variables [{missing}] missing")


def test_cni2_what_a_verb_does_not_need_may_be_missing(node: Node) -> None:
    config = b'{"cniVersion":"1.1.0","name":"fleetboard"}'
    pod = node.nets.make()
    assert node.execute({"CNI_COMMAND": "STATUS"}, config) == shim_node.Answer(0, b"", b"")
    assert node.execute({"CNI_COMMAND": "GC", "CNI_PATH": "/opt/cni/bin"}, config) == shim_node.Answer(0, b"", b"")
    alone = environ("ADD", "one", pod, CNI_PATH="", CNI_ARGS="")
    assert node.execute(alone, config).status == 0
    assert node.execute({**alone, "CNI_COMMAND": "DEL", "CNI_NETNS": ""}, config) == shim_node.Answer(0, b"", b"")
    assert node.cni.usage().used == 0


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK"])
def test_cni3_a_container_id_that_could_be_a_path_is_refused(node: Node, verb: str) -> None:
    for container in ("../x", "-a", ".a", "a b", "a/b", "a;b", "ä", "a\n"):
        code, message = refused(node, verb, stdin=shim_node.CONFIG, CNI_CONTAINERID=container)
        assert code == 4
        assert f"CNI_CONTAINERID is {container!r}" in message


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_cni4_an_interface_name_that_the_kernel_would_not_take_is_refused(node: Node, verb: str) -> None:
    for interface in ("sixteen-letters-", ".", "..", "a/b", "a:b", "a b", "a\tb", "ääääääää"):
        code, message = refused(node, verb, stdin=shim_node.CONFIG, CNI_IFNAME=interface)
        assert code == 4
        assert f"CNI_IFNAME is {interface!r}" in message


def test_cni4_the_longest_name_is_taken(node: Node) -> None:
    pod = node.nets.make()
    assert node.call("ADD", "one", pod, CNI_IFNAME="fifteen-letters").status == 0
    assert "fifteen-letters" in pod.run("ip", "link")


def test_cni5_an_invalid_configuration_is_refused(node: Node) -> None:
    for stdin in (b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b"\0" * 100, b"[" * 100_000):
        assert node.execute(environ("ADD", "one", node.node_netns), stdin).code == 6


def test_cni5_a_configuration_without_end_is_refused_early(node: Node) -> None:
    command = node.command(environ("ADD", "one", node.nets.make()))
    with pathlib.Path("/dev/zero").open("rb") as endless:
        done = subprocess.run(command, stdin=endless, capture_output=True, timeout=20, check=False)
    assert shim_node.Answer(done.returncode, done.stdout, done.stderr).code == 6


def test_cni5_a_stdin_that_cannot_be_read_is_an_answer_too(node: Node) -> None:
    answer = node.execute(environ("ADD", "one", node.nets.make()), prepare="exec <&-")
    assert (answer.code, answer.stderr) == (5, b"")


def test_cni5_a_network_without_a_proper_name_is_refused(node: Node) -> None:
    for name in (None, "", 7, "a b", "-a", "../a"):
        code, message = refused(node, "ADD", stdin={**shim_node.CONFIG, "name": name})
        assert code == 7
        assert f"network name is {name!r}" in message


def test_cni6_a_version_that_is_not_served_is_refused_with_those_that_are(node: Node) -> None:
    for version in (None, "0.1.0", "0.2.0", "1.2.0", "2.0.0", "x", 1):
        stdin = {"name": "fleetboard"} | ({} if version is None else {"cniVersion": version})
        code, message = refused(node, "ADD", stdin=stdin)
        assert code == 1
        assert f"config is {version or '0.1.0'!r}" in message
        assert all(served in message for served in VERSIONS)


def test_cni6_a_verb_newer_than_the_configuration_is_refused(node: Node) -> None:
    for verb, newer in (("CHECK", 2), ("GC", 4), ("STATUS", 4)):
        for version in VERSIONS[:newer]:
            code, message = refused(node, verb, stdin={"name": "fleetboard", "cniVersion": version})
            assert code == 1
            assert f"config version does not allow {verb}" in message


def test_cni7_keys_that_others_read_are_tolerated(node: Node) -> None:
    pod = node.nets.make()
    others = {
        "cni.dev/valid-attachments": None,
        "cni.dev/attachments": [],
        "runtimeConfig": {"portMappings": [], "bandwidth": {}, "deviceID": "0000:00:01.0", "CNIDeviceInfoFile": "/x"},
        "args": {"cni": {"labels": [{"key": "app", "value": "x"}]}},
        "capabilities": {"ips": True, "mac": True},
        "ipam": {},
        "dns": {},
        "ipMasq": False,
        "disableCheck": True,
        "disableGC": True,
        "cniVersions": ["1.0.0", "1.1.0"],
        "loadOnlyInlinedPlugins": True,
        "deviceID": "0000:00:01.0",
        "pciBusID": "0000:00:01.0",
        "somebodys": {"own": [1, None, "x"]},
    }
    result = node.call("ADD", "one", pod, config=others)
    assert (result.status, len(result.content["ips"])) == (0, 1)
    for verb in ("CHECK", "DEL"):
        assert node.call(verb, "one", pod, config={**others, "prevResult": result.content}).status == 0


def test_cni8_an_unknown_argument_is_refused_unless_it_may_be_ignored(node: Node) -> None:
    for args in ("FOO=bar", "IgnoreUnknown=0;FOO=bar", "FOO"):
        code, message = refused(node, "ADD", stdin=shim_node.CONFIG, CNI_ARGS=args)
        assert code == 4
        assert "CNI_ARGS" in message
        assert "FOO" in message


def test_cni8_arguments_that_come_twice_as_multus_adds_them(node: Node) -> None:
    twice = "IgnoreUnknown=true;K8S_POD_NAME=a;;FOO=bar;IgnoreUnknown=1;K8S_POD_NAME=one;IP=10.112.4.9;"
    result = node.call("ADD", "one", node.nets.make(), CNI_ARGS=twice).content
    assert result["ips"][0]["address"] == "10.112.4.9/32"
    assert [attachment.pod_name for attachment in node.cni.attachments()] == ["one"]


def test_cni8_addresses_of_both_families_in_one_argument(node: Node) -> None:
    node.cni.set_network(shim_node.BOTH_FAMILIES)
    result = node.call("ADD", "one", node.nets.make(), CNI_ARGS="IgnoreUnknown=1;IP=10.112.4.9/24,fd00:1::9").content
    assert [ip["address"] for ip in result["ips"]] == ["10.112.4.9/32", "fd00:1::9/128"]


@pytest.mark.parametrize(
    ("config", "address", "mac"),
    [
        (
            {
                "runtimeConfig": {"ips": ["10.112.4.20/12"], "mac": "0a:58:0a:70:04:14"},
                "args": {"cni": {"ips": ["10.112.4.30"], "mac": "0a:58:0a:70:04:1e"}},
            },
            "10.112.4.20/32",
            "0a:58:0a:70:04:14",
        ),
        (
            {"args": {"cni": {"ips": ["10.112.4.30"], "mac": "0a:58:0a:70:04:1e"}}},
            "10.112.4.30/32",
            "0a:58:0a:70:04:1e",
        ),
        ({}, "10.112.4.9/32", "0a:58:0a:70:04:99"),
    ],
    ids=["runtimeConfig", "args.cni", "CNI_ARGS"],
)
def test_cni8_the_configuration_comes_before_the_arguments(
    node: Node, config: dict[str, object], address: str, mac: str
) -> None:
    args = "IgnoreUnknown=1;IP=10.112.4.9;MAC=0a:58:0a:70:04:99"
    pod = node.nets.make()
    result = node.call("ADD", "one", pod, config=config, CNI_ARGS=args).content
    assert (result["ips"][0]["address"], result["interfaces"][0]["mac"]) == (address, mac)
    assert mac in pod.run("ip", "link", "show", "net1")
