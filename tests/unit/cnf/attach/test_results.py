"""Results in the shape of each version of CNI."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from typing import Any

import pytest

from cnf.attach import errors, protocol, records, results, wiring
from cnf.attach.node_network.network import NodeNetwork

NETWORK = NodeNetwork(
    node_address=ipaddress.ip_address("10.112.4.0"),
    blocks=(ipaddress.ip_network("10.112.4.0/26"), ipaddress.ip_network("fd00:1::/64")),
    fleet=(ipaddress.ip_network("10.112.0.0/12"), ipaddress.ip_network("fd00::/16")),
    mtu=1360,
)
RECORD = records.Record(
    container_id="c1", interface="net1", addresses=["10.112.4.1"], mac="0a:00:00:00:00:01", cookie=7, boot="b"
)
CALL = protocol.Call(protocol.Verb.ADD, "1.0.0", network="n", container_id="c1", interface="net1", netns="/run/netns/a")


def render(version: str, previous: dict[str, Any] | None = None, record: records.Record = RECORD) -> Any:
    call = dataclasses.replace(CALL, version=version, previous=previous)
    return json.loads(results.render_add(call, record, wiring.plan_ends(record, NETWORK)))


@pytest.mark.parametrize("version", protocol.VERSIONS)
def test_each_version_has_its_own_shape(version: str) -> None:
    result = render(version)
    assert result["cniVersion"] == version
    assert ("version" in result["ips"][0]) == (version < "1.0.0")
    assert ("mtu" in result["interfaces"][0]) == (version == "1.1.0")
    assert result["interfaces"][0]["sandbox"] == "/run/netns/a"
    assert result["routes"] == [{"dst": "10.112.0.0/12", "gw": "10.112.4.0"}]


def test_two_families_are_two_addresses_of_one_interface() -> None:
    both = records.Record(
        container_id="c1", interface="net1", addresses=["10.112.4.1", "fd00:1::1"], mac="0a:00:00:00:00:01",
        cookie=7, boot="b",
    )  # fmt: skip
    result = render("0.4.0", record=both)
    assert [(ip["version"], ip["address"], ip["gateway"], ip["interface"]) for ip in result["ips"]] == [
        ("4", "10.112.4.1/32", "10.112.4.0", 0),
        ("6", "fd00:1::1/128", "fd00:1::", 0),
    ]
    assert len(result["routes"]) == 2


def test_a_chain_keeps_what_came_before_and_counts_on() -> None:
    previous = {
        "cniVersion": "0.4.0",
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/a"}],
        "ips": [{"version": "4", "interface": 0, "address": "10.0.0.2/24", "gateway": "10.0.0.1"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}],
        "dns": {"nameservers": ["10.0.0.53"]},
    }
    result = render("1.0.0", previous)
    assert [i["name"] for i in result["interfaces"]] == ["eth0", "net1"]
    assert [ip["interface"] for ip in result["ips"]] == [0, 1]
    assert all("version" not in ip for ip in result["ips"])
    assert len(result["routes"]) == 2
    assert result["dns"] == {"nameservers": ["10.0.0.53"]}


def test_an_error_says_code_and_sentence() -> None:
    error = errors.CallRefusedError(errors.Code.TRY_AGAIN, "no address", "why")
    assert json.loads(results.render_error("1.0.0", error)) == {
        "cniVersion": "1.0.0",
        "code": 11,
        "msg": "no address",
        "details": "why",
    }


def test_version_lists_what_is_served() -> None:
    answer = json.loads(results.render_version("0.4.0"))
    assert answer == {"cniVersion": "0.4.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]}
