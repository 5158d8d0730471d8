"""What the packed executable prints and how it exits, for every version (CNI 9 to 17 in README.md)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import shim_node
from shim_node import Answer, Node, environ

pytestmark = pytest.mark.netns

VERSIONS = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]


def leaves(value: Any) -> list[Any]:
    """Return everything in a JSON document that is neither object nor list."""
    if isinstance(value, dict):
        return [leaf for member in value.values() for leaf in leaves(member)]
    if isinstance(value, list):
        return [leaf for member in value for leaf in leaves(member)]
    return [value]


def test_cni10_a_pod_is_attached_and_detached(node: Node) -> None:
    pod = node.nets.make()
    added = node.call("ADD", "one", pod)
    assert (added.status, added.stderr) == (0, b"")
    assert added.content["ips"] == [{"interface": 0, "address": "10.112.4.1/32", "gateway": "10.112.4.0"}]
    assert pod.answers_ping("10.112.4.0")
    assert node.call("CHECK", "one", pod, config={"prevResult": added.content}) == Answer(0, b"", b"")
    assert node.call("STATUS", "", None, config={"cniVersion": "1.1.0"}) == Answer(0, b"", b"")
    assert node.call("GC", "", None, config={"cniVersion": "1.1.0"}) == Answer(0, b"", b"")
    assert node.call("DEL", "one", pod) == Answer(0, b"", b"")
    assert "net1" not in pod.run("ip", "link")


def test_cni11_an_error_has_its_version_code_and_sentence_on_stdout(node: Node) -> None:
    answer = node.call("ADD", "one", None, config={"cniVersion": "0.4.0"})
    assert (answer.status, answer.stderr) == (1, b"")
    assert answer.content == {
        "cniVersion": "0.4.0",
        "code": 4,
        "msg": "required env variables [CNI_NETNS] missing",
        "details": "CNI_COMMAND ADD needs them",
    }


def test_cni12_version_is_answered_without_reading_stdin(node: Node) -> None:
    with node.start({"CNI_COMMAND": "VERSION", "CNI_NETNS": "dummy", "CNI_IFNAME": "dummy"}) as process:
        assert process.stdout is not None
        # stdin stays open all the while.
        assert json.loads(process.stdout.read()) == {"cniVersion": "1.1.0", "supportedVersions": VERSIONS}
        assert process.wait(10) == 0


def test_cni9_cni13_each_version_gets_its_own_shape(node: Node) -> None:
    node.cni.set_network(shim_node.BOTH_FAMILIES)
    for version in VERSIONS:
        pod = node.nets.make()
        # Which of `cniVersions` to use is the runtime's to say.
        config = {"cniVersion": version, "cniVersions": VERSIONS}
        result = node.call("ADD", f"c{version}", pod, config=config).content
        assert result["cniVersion"] == version
        assert set(result) == {"cniVersion", "interfaces", "ips", "routes", "dns"}
        (interface,) = result["interfaces"]
        assert set(interface) == {"name", "mac", "sandbox"} | ({"mtu"} if version == "1.1.0" else set())
        marks = [ip.pop("version", None) for ip in result["ips"]]
        assert marks == (["4", "6"] if version < "1.0.0" else [None, None])
        assert all(set(ip) == {"interface", "address", "gateway"} for ip in result["ips"])
        assert all(set(route) == {"dst", "gw"} for route in result["routes"])
        assert not {"", None} & set(leaves(result))


def test_cni14_cni15_cni16_the_pods_interface_alone_with_all_its_addresses(node: Node) -> None:
    node.cni.set_network(shim_node.BOTH_FAMILIES)
    pod = node.nets.make()
    # A runtime that mounts them elsewhere gets its own path back.
    given = f"/run/netns/../netns/{pod.name}"
    result = node.call("ADD", "one", pod, CNI_NETNS=given).content
    assert [(i["name"], i["sandbox"]) for i in result["interfaces"]] == [("net1", given)]
    assert result["interfaces"][0]["mac"] in pod.run("ip", "link", "show", "net1")
    assert [(ip["interface"], ip["address"]) for ip in result["ips"]] == [(0, "10.112.4.1/32"), (0, "fd00:1::1/128")]
    assert result["routes"] == [
        {"dst": "10.112.0.0/12", "gw": "10.112.4.0"},
        {"dst": "fd00::/16", "gw": "fd00:1::"},
    ]
    assert "default" not in pod.run("ip", "route", "show", "table", "all")


def test_cni17_results_of_a_chain_are_passed_on(node: Node) -> None:
    before: dict[str, Any] = {
        "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "x"}],
        "ips": [{"version": "4", "interface": 1, "address": "10.0.0.5/24", "gateway": "10.0.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["10.0.0.1"]},
    }
    pod = node.nets.make()
    result = node.call("ADD", "one", pod, config={"prevResult": before}).content
    assert [interface["name"] for interface in result["interfaces"]] == ["br0", "eth0", "net1"]
    assert [ip["interface"] for ip in result["ips"]] == [1, 2]
    # A result of before 1.0.0 in a configuration of 1.0.0: the field is gone.
    assert all("version" not in ip for ip in result["ips"])
    assert result["routes"] == [*before["routes"], {"dst": "10.112.0.0/12", "gw": "10.112.4.0"}]
    assert result["dns"] == before["dns"]
    assert node.call("CHECK", "one", pod, config={"prevResult": result}) == Answer(0, b"", b"")
    assert node.call("DEL", "one", pod, config={"prevResult": result}) == Answer(0, b"", b"")


def test_cni17_a_previous_result_may_be_empty_and_without_a_version(node: Node) -> None:
    for number, before in enumerate((None, {}, {"interfaces": None, "ips": None, "routes": None, "dns": None})):
        result = node.call("ADD", f"c{number}", node.nets.make(), config={"prevResult": before}).content
        assert (result["cniVersion"], [ip["interface"] for ip in result["ips"]]) == ("1.0.0", [0])


def test_cni17_an_invalid_previous_result_is_refused(node: Node) -> None:
    odd: list[Any] = [7, [], {"ips": {"address": "x"}}, {"interfaces": [7]}]
    for before in odd:
        stdin = json.dumps({**shim_node.CONFIG, "prevResult": before}).encode()
        answer = node.execute(environ("ADD", "one", node.node_netns), stdin)
        assert answer.code == 7
        assert "prevResult" in answer.content["msg"]
