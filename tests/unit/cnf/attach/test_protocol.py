"""Which calls are accepted, which are refused, and with which code (CNI specification 1.1.0)."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnf.attach import errors, protocol
from cnf.attach.errors import Code
from cnf.attach.protocol import Verb

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG: dict[str, Any] = {"cniVersion": "1.0.0", "name": "fleetboard", "type": "fleetboard"}


def parse(env: dict[str, str] | None = None, config: Any = None) -> protocol.Call:
    stdin = config if isinstance(config, bytes) else json.dumps({**CONFIG, **(config or {})}).encode()
    return protocol.parse_call({**ENV, **(env or {})}, stdin)


def refused(env: dict[str, str] | None = None, config: Any = None) -> errors.CallRefusedError:
    with pytest.raises(errors.CallRefusedError) as caught:
        parse(env, config)
    return caught.value


@pytest.mark.parametrize("command", ["", "add", "REMOVE"])
def test_an_unknown_command_is_refused_by_name(command: str) -> None:
    error = refused({"CNI_COMMAND": command})
    assert error.code is Code.INVALID_ENVIRONMENT
    assert "CNI_COMMAND" in error.message


def test_all_missing_variables_are_named_at_once() -> None:
    error = refused({"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ""})
    assert error.code is Code.INVALID_ENVIRONMENT
    assert "[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME]" in error.message


@pytest.mark.parametrize(
    ("verb", "optional"),
    [("ADD", "CNI_PATH"), ("DEL", "CNI_PATH"), ("DEL", "CNI_NETNS"), ("CHECK", "CNI_PATH")],
)
def test_what_the_specification_leaves_out_is_not_asked_for(verb: str, optional: str) -> None:
    assert parse({"CNI_COMMAND": verb, optional: ""}).verb is Verb(verb)


def test_gc_needs_the_path_and_status_nothing() -> None:
    new = {"cniVersion": "1.1.0"}
    assert "CNI_PATH" in refused({"CNI_COMMAND": "GC", "CNI_PATH": ""}, new).message
    bare = {"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": "", "CNI_PATH": ""}
    assert parse({"CNI_COMMAND": "STATUS", **bare}, new).verb is Verb.STATUS


@pytest.mark.parametrize("value", ["../x", "-a", "a b", "a/b", "ä", "a\n"])
def test_a_container_id_that_could_be_a_path_is_refused(value: str) -> None:
    assert refused({"CNI_CONTAINERID": value}).code is Code.INVALID_ENVIRONMENT


@pytest.mark.parametrize("value", [".", "..", "a/b", "a:b", "a b", "x" * 16, "ä" * 8, "a\n"])
def test_an_interface_name_that_the_kernel_refuses_is_refused(value: str) -> None:
    assert refused({"CNI_IFNAME": value}).code is Code.INVALID_ENVIRONMENT


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b"1", b'"x"', b"\xff\xfe"])
def test_stdin_that_is_no_object_is_refused(stdin: bytes) -> None:
    assert refused(config=stdin).code is Code.UNDECODABLE


def test_a_configuration_that_is_nested_too_deep_is_refused() -> None:
    stdin = b'{"name":"x","y":' + b"[" * 3000 + b"]" * 3000 + b"}"
    with pytest.raises(errors.CallRefusedError, match="deep"):
        protocol.parse_call({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "a", "CNI_IFNAME": "net1"}, stdin)


@pytest.mark.parametrize("name", [None, "", 1, "-x", "a/b", ["x"]])
def test_a_network_without_a_proper_name_is_refused(name: Any) -> None:
    assert refused(config={"name": name}).code is Code.INVALID_CONFIG


@pytest.mark.parametrize("version", protocol.VERSIONS)
def test_every_version_is_served_and_echoed(version: str) -> None:
    assert parse(config={"cniVersion": version}).version == version


@pytest.mark.parametrize("version", [None, "", "0.1.0", "0.2.0", "1.2.0", "2.0.0", 1, "x"])
def test_another_version_is_refused(version: Any) -> None:
    assert refused(config={"cniVersion": version}).code is Code.INCOMPATIBLE_VERSION


@pytest.mark.parametrize(
    ("verb", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0"), ("STATUS", "0.4.0")]
)
def test_a_verb_younger_than_the_configuration_is_refused(verb: str, version: str) -> None:
    error = refused({"CNI_COMMAND": verb}, {"cniVersion": version})
    assert error.code is Code.INCOMPATIBLE_VERSION
    assert f"does not allow {verb}" in error.message


def test_version_asks_for_nothing_else() -> None:
    assert protocol.parse_call({"CNI_COMMAND": "VERSION"}, b"").version == "1.1.0"
    assert protocol.parse_call({"CNI_COMMAND": "VERSION"}, b'{"cniVersion":"0.4.0"}').version == "0.4.0"


def test_keys_of_others_are_tolerated() -> None:
    extra = {"capabilities": {"ips": True}, "ipam": {}, "dns": {}, "ipMasq": False, "deviceID": "x", "cni.dev/x": 1}
    assert parse(config=extra).container_id == "c1"


def test_the_pod_is_read_from_args_that_come_twice() -> None:
    args = "IgnoreUnknown=true;K8S_POD_NAMESPACE=a;K8S_POD_NAME=p;K8S_POD_UID=u;IgnoreUnknown=0;K8S_POD_NAME=p;X=y"
    call = parse({"CNI_ARGS": args})
    assert (call.pod_namespace, call.pod_name, call.pod_uid) == ("a", "p", "u")


def test_unknown_args_are_refused_unless_they_are_to_be_ignored() -> None:
    assert refused({"CNI_ARGS": "X=y"}).code is Code.INVALID_ENVIRONMENT
    assert parse({"CNI_ARGS": "X=y;IgnoreUnknown=1"}).container_id == "c1"
    assert refused({"CNI_ARGS": "K8S_POD_NAME"}).code is Code.INVALID_ENVIRONMENT


def test_the_runtimes_addresses_come_before_the_arguments() -> None:
    runtime, conventional = {"ips": ["10.0.0.1/24"]}, {"cni": {"ips": ["10.0.0.2"]}}
    env = {"CNI_ARGS": "IP=10.0.0.3,fd00::3"}
    address = ipaddress.ip_address
    both = {"runtimeConfig": runtime, "args": conventional}
    assert parse(env, both).requested == (address("10.0.0.1"),)
    assert parse(env, {"args": conventional}).requested == (address("10.0.0.2"),)
    assert parse(env).requested == (address("10.0.0.3"), address("fd00::3"))
    assert parse().requested == ()


@pytest.mark.parametrize("ips", ["10.0.0.1", ["10.0.0.256"], [{}], [None], [False], [7]])
def test_invalid_addresses_are_refused(ips: Any) -> None:
    assert refused(config={"runtimeConfig": {"ips": ips}}).code is Code.INVALID_CONFIG


@pytest.mark.parametrize("mac", ["01:00:5e:00:00:01", "00:00:00:00:00:00", "x", "0a:58", 7, "0a:58:00:00:00:0g"])
def test_a_mac_that_is_no_hosts_is_refused(mac: Any) -> None:
    assert refused(config={"runtimeConfig": {"mac": mac}}).code is Code.INVALID_CONFIG


def test_a_mac_is_written_one_way() -> None:
    assert parse(config={"runtimeConfig": {"mac": "0A-58-00-00-00-01"}}).mac == "0a:58:00:00:00:01"
    assert parse({"CNI_ARGS": "MAC=0a:58:00:00:00:02"}).mac == "0a:58:00:00:00:02"


@pytest.mark.parametrize(
    "previous",
    ["x", [], {"ips": "x"}, {"interfaces": [1]}, {"routes": {"dst": "x"}}, {"ips": ["10.0.0.1"]}, {"dns": 1}],
)
def test_an_invalid_previous_result_is_refused(previous: Any) -> None:
    assert refused(config={"prevResult": previous}).code is Code.INVALID_CONFIG
    assert parse(config={"prevResult": {"ips": None, "interfaces": []}}).previous is not None


def test_gc_distinguishes_no_list_from_an_empty_one() -> None:
    gc = {"CNI_COMMAND": "GC"}
    new = {"cniVersion": "1.1.0"}
    entries = [{"containerID": "a", "ifname": "net1"}]
    assert parse(gc, new).valid is None
    assert parse(gc, {**new, "cni.dev/valid-attachments": None}).valid is None
    assert parse(gc, {**new, "cni.dev/valid-attachments": []}).valid == frozenset()
    assert parse(gc, {**new, "cni.dev/valid-attachments": entries}).valid == frozenset({("a", "net1")})
    assert refused(gc, {**new, "cni.dev/valid-attachments": [1]}).code is Code.INVALID_CONFIG


def test_delete_does_not_look_at_wishes() -> None:
    assert parse({"CNI_COMMAND": "DEL", "CNI_ARGS": "nonsense"}, {"runtimeConfig": {"ips": "bad"}}).verb is Verb.DEL


@given(st.dictionaries(st.sampled_from([*sorted(ENV), "CNI_ARGS"]), st.text(max_size=20)), st.binary(max_size=60))
def test_whatever_comes_is_a_call_or_a_refusal(env: dict[str, str], stdin: bytes) -> None:
    with contextlib.suppress(errors.CallRefusedError):
        protocol.parse_call({**ENV, **env}, stdin)
    assert protocol.echo_version(stdin) in protocol.VERSIONS


@given(
    st.dictionaries(
        st.sampled_from(["cniVersion", "name", "prevResult", "runtimeConfig", "args", "cni.dev/valid-attachments"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["cni", "ips", "mac"]), inner),
            max_leaves=6,
        ),
    ),
    st.sampled_from(list(Verb)),
)
def test_whatever_the_configuration_holds_is_a_call_or_a_refusal(config: dict[str, Any], verb: Verb) -> None:
    with contextlib.suppress(errors.CallRefusedError):
        parse({"CNI_COMMAND": verb.value}, config)
