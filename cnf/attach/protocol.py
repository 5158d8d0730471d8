"""Parses one CNI call of the specification, 0.3.0 to 1.1.0: environment and stdin in, a ``Call`` out.

A runtime, a user or a pod's annotation may be wrong in any field. Such a call is refused here, with the specification's
code and a message that names the field. A ``Call`` that was parsed is trusted.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from cnf.attach import records
from cnf.attach.errors import CallRefusedError, Code
from fleetboard.model.addresses import Address

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

_IDENTIFIER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_INTERFACE = re.compile(r"[^/:\s]{1,15}")
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")
_KNOWN_ARGS = {
    "IgnoreUnknown",
    "K8S_POD_NAMESPACE",
    "K8S_POD_NAME",
    "K8S_POD_INFRA_CONTAINER_ID",
    "K8S_POD_UID",
    "IP",
    "MAC",
}


class Verb(enum.Enum):
    """CNI_COMMAND."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


_REQUIRED = {
    Verb.ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Verb.CHECK: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Verb.DEL: ("CNI_CONTAINERID", "CNI_IFNAME"),
    Verb.GC: ("CNI_PATH",),
    Verb.STATUS: (),
    Verb.VERSION: (),
}
_SINCE = {Verb.CHECK: "0.4.0", Verb.GC: "1.1.0", Verb.STATUS: "1.1.0"}


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call, parsed and checked."""

    verb: Verb
    version: str
    network: str = ""
    container_id: str = ""
    interface: str = ""
    netns: str = ""
    pod_namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    requested: tuple[Address, ...] = ()
    mac: str = ""
    previous: Mapping[str, Any] | None = None
    valid: frozenset[records.Key] | None = None
    """GC: the attachments that the runtime lists; None when it lists none at all."""

    @property
    def key(self) -> records.Key:
        """Identifies the attachment that the call is about."""
        return self.container_id, self.interface


def echo_version(stdin: bytes) -> str:
    """Return the version to answer in: the configuration's if it is supported, else the latest."""
    try:
        version = _decode(stdin).get("cniVersion")
    except CallRefusedError:
        version = None
    return version if version in VERSIONS else VERSIONS[-1]


def parse_call(env: Mapping[str, str], stdin: bytes) -> Call:
    """Parse and check one call.

    Raises:
        CallRefusedError: a field is invalid; the code is the specification's.
    """
    verb = _parse_verb(env)
    if verb is Verb.VERSION:
        return Call(verb, echo_version(stdin))
    _check_required(env, verb)
    container_id = _parse_container_id(env) if "CNI_CONTAINERID" in _REQUIRED[verb] else ""
    interface = _parse_interface(env) if "CNI_IFNAME" in _REQUIRED[verb] else ""
    config = _decode(stdin)
    version = _parse_version(config, verb)
    call = Call(
        verb,
        version,
        network=_parse_name(config),
        container_id=container_id,
        interface=interface,
        netns=env.get("CNI_NETNS", ""),
    )
    if verb is Verb.GC:
        return dataclasses.replace(call, valid=_parse_valid(config))
    if verb not in (Verb.ADD, Verb.CHECK):
        return call
    call = dataclasses.replace(call, previous=_parse_previous(config.get("prevResult")))
    return call if verb is Verb.CHECK else _with_requests(call, env, config)


def _with_requests(call: Call, env: Mapping[str, str], config: Mapping[str, Any]) -> Call:
    args = _parse_args(env.get("CNI_ARGS", ""))
    runtime, conventional = _object(config, "runtimeConfig"), _object(_object(config, "args"), "cni")
    # CNI's CONVENTIONS.md: a plugin that understands the configuration's field ignores CNI_ARGS.
    ips = runtime.get("ips") or conventional.get("ips") or [ip for ip in args.get("IP", "").split(",") if ip]
    mac = runtime.get("mac") or conventional.get("mac") or args.get("MAC", "")
    return dataclasses.replace(
        call,
        pod_namespace=args.get("K8S_POD_NAMESPACE", ""),
        pod_name=args.get("K8S_POD_NAME", ""),
        pod_uid=args.get("K8S_POD_UID", ""),
        requested=_parse_ips(ips),
        mac=_parse_mac(mac),
    )


def _parse_previous(previous: Any) -> Mapping[str, Any] | None:
    """Check the shape of the earlier plugins' result; its content is theirs."""
    if previous is None:
        return None
    if not isinstance(previous, dict):
        raise CallRefusedError(Code.INVALID_CONFIG, f"prevResult is {previous!r}: expected an object")
    _object(previous, "dns")
    for field in ("interfaces", "ips", "routes"):
        entries = previous.get(field) or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise CallRefusedError(Code.INVALID_CONFIG, f"prevResult.{field}: expected a list of objects")
    return previous


def _parse_verb(env: Mapping[str, str]) -> Verb:
    text = env.get("CNI_COMMAND", "")
    try:
        return Verb(text)
    except ValueError:
        verbs = ", ".join(verb.value for verb in Verb)
        raise CallRefusedError(
            Code.INVALID_ENVIRONMENT, f"environment variable CNI_COMMAND is {text!r}: expected one of {verbs}"
        ) from None


def _check_required(env: Mapping[str, str], verb: Verb) -> None:
    missing = [name for name in _REQUIRED[verb] if not env.get(name)]
    if missing:
        raise CallRefusedError(
            Code.INVALID_ENVIRONMENT,
            f"required env variables [{','.join(missing)}] missing",
            f"CNI_COMMAND {verb.value} needs them",
        )


def _parse_container_id(env: Mapping[str, str]) -> str:
    value = env["CNI_CONTAINERID"]
    if not _IDENTIFIER.fullmatch(value):
        raise CallRefusedError(
            Code.INVALID_ENVIRONMENT,
            f"environment variable CNI_CONTAINERID is {value!r}: expected letters, digits, '_', '.' and '-', "
            "beginning with a letter or digit",
        )
    return value


def _parse_interface(env: Mapping[str, str]) -> str:
    value = env["CNI_IFNAME"]
    if not _INTERFACE.fullmatch(value) or value in (".", "..") or len(value.encode(errors="replace")) > 15:
        raise CallRefusedError(
            Code.INVALID_ENVIRONMENT,
            f"environment variable CNI_IFNAME is {value!r}: expected 1 to 15 characters without '/', ':' and space, "
            "not '.' or '..'",
        )
    return value


def _decode(stdin: bytes) -> dict[str, Any]:
    try:
        config = msgspec.json.decode(stdin)
    except msgspec.DecodeError as err:
        raise CallRefusedError(Code.UNDECODABLE, "network configuration on stdin is not JSON", str(err)) from err
    except UnicodeDecodeError as err:
        raise CallRefusedError(Code.UNDECODABLE, "network configuration on stdin is not UTF-8", str(err)) from err
    except RecursionError as err:
        raise CallRefusedError(Code.UNDECODABLE, "network configuration on stdin is nested too deep") from err
    if not isinstance(config, dict):
        raise CallRefusedError(Code.UNDECODABLE, "network configuration on stdin is not a JSON object")
    return config


def _parse_version(config: Mapping[str, Any], verb: Verb) -> str:
    version = config.get("cniVersion", "0.1.0") or "0.1.0"
    if version not in VERSIONS:
        raise CallRefusedError(
            Code.INCOMPATIBLE_VERSION,
            "incompatible CNI versions",
            f"config is {version!r}, plugin supports {list(VERSIONS)}",
        )
    since = _SINCE.get(verb)
    if since is not None and VERSIONS.index(version) < VERSIONS.index(since):
        raise CallRefusedError(
            Code.INCOMPATIBLE_VERSION,
            f"config version does not allow {verb.value}",
            f"config is {version!r}, {verb.value} came with {since}",
        )
    return str(version)


def _parse_name(config: Mapping[str, Any]) -> str:
    name = config.get("name")
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
        raise CallRefusedError(
            Code.INVALID_CONFIG,
            f"network name is {name!r}: expected letters, digits, '_', '.' and '-', beginning with a letter or digit",
        )
    return name


def _parse_args(text: str) -> dict[str, str]:
    """Parse CNI_ARGS. Multus adds its keys to the runtime's, so a key may come twice; the last one counts."""
    args: dict[str, str] = {}
    ignore_unknown = False
    for pair in filter(None, text.split(";")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise CallRefusedError(Code.INVALID_ENVIRONMENT, f"CNI_ARGS holds {pair!r}: expected KEY=VALUE")
        args[key] = value
        ignore_unknown |= key == "IgnoreUnknown" and value.lower() in ("1", "true", "t")
    unknown = sorted(args.keys() - _KNOWN_ARGS)
    if unknown and not ignore_unknown:
        raise CallRefusedError(Code.INVALID_ENVIRONMENT, f"CNI_ARGS holds unknown keys {unknown} and no IgnoreUnknown")
    return args


def _object(parent: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = parent.get(field) or {}
    if not isinstance(value, dict):
        raise CallRefusedError(Code.INVALID_CONFIG, f"{field} is {value!r}: expected an object")
    return value


def _parse_ips(values: Any) -> tuple[Address, ...]:
    if not isinstance(values, list):
        raise CallRefusedError(Code.INVALID_CONFIG, f"ips is {values!r}: expected a list of addresses")
    addresses: list[Address] = []
    for value in values:
        try:
            # ipaddress also reads booleans and numbers.
            addresses.append(ipaddress.ip_interface(value if isinstance(value, str) else "").ip)
        except ValueError as err:
            raise CallRefusedError(
                Code.INVALID_CONFIG, f"ips holds {value!r}: expected an address with or without prefix length"
            ) from err
    return tuple(addresses)


def _parse_mac(value: Any) -> str:
    if not value:
        return ""
    if not isinstance(value, str) or not _MAC.fullmatch(value):
        raise CallRefusedError(Code.INVALID_CONFIG, f"mac is {value!r}: expected six bytes such as 0a:58:0a:70:04:01")
    octets = bytes.fromhex(value.replace(":", "").replace("-", ""))
    if octets[0] & 1 or not any(octets):
        raise CallRefusedError(Code.INVALID_CONFIG, f"mac is {value!r}: expected the address of one host, not a group")
    return octets.hex(":")


def _parse_valid(config: Mapping[str, Any]) -> frozenset[records.Key] | None:
    entries = config.get("cni.dev/valid-attachments")
    # Go writes a nil slice as null, so null is no list, and not an empty one.
    if entries is None:
        return None
    try:
        return frozenset((entry["containerID"], entry["ifname"]) for entry in entries)
    except (TypeError, KeyError) as err:
        raise CallRefusedError(
            Code.INVALID_CONFIG,
            "cni.dev/valid-attachments: expected a list of objects with containerID and ifname",
        ) from err
