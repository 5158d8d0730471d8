"""Renders what a CNI call prints: results in the shape of each version, and errors.

A result lists only the pod's interface. With cnf's end and its sandbox, Multus would publish a second network; without
a sandbox, chained plugins would look for that end on the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cnf.attach import errors, protocol, records, wiring

_SUPPORTED = list(protocol.VERSIONS)


def render_version(version: str) -> bytes:
    """Return the answer to VERSION."""
    return msgspec.json.encode({"cniVersion": version, "supportedVersions": _SUPPORTED})


def render_error(version: str, error: errors.CallRefusedError) -> bytes:
    """Return an error object."""
    content: dict[str, Any] = {"cniVersion": version, "code": int(error.code), "msg": error.message}
    if error.details:
        content["details"] = error.details
    return msgspec.json.encode(content)


def render_add(call: protocol.Call, record: records.Record, ends: wiring.Ends) -> bytes:
    """Return the result of ADD, appended to that of earlier plugins in the chain."""
    previous = call.previous or {}
    interfaces = list(previous.get("interfaces") or [])
    interfaces.append(_interface(call, record, ends))
    ips = [_convert_ip(ip, call.version) for ip in previous.get("ips") or []]
    ips += [_ip(call.version, pod, node, interface=len(interfaces) - 1) for pod, node in ends.paths]
    routes = list(previous.get("routes") or [])
    routes += [{"dst": str(r.destination), "gw": str(r.gateway)} for r in wiring.fleet_routes(ends)]
    result = {
        "cniVersion": call.version,
        "interfaces": interfaces,
        "ips": ips,
        "routes": routes,
        "dns": previous.get("dns") or {},
    }
    return msgspec.json.encode(result)


def _interface(call: protocol.Call, record: records.Record, ends: wiring.Ends) -> dict[str, Any]:
    interface: dict[str, Any] = {"name": record.interface, "mac": record.mac, "sandbox": call.netns}
    if _at_least(call.version, "1.1.0"):
        interface["mtu"] = ends.far.mtu
    return interface


def _ip(version: str, pod: Any, node: Any, *, interface: int) -> dict[str, Any]:
    ip = {"interface": interface, "address": f"{pod}/{pod.max_prefixlen}", "gateway": str(node)}
    return _convert_ip(ip, version)


def _convert_ip(ip: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Add or remove the field ``version``, which results have before 1.0.0 and must not have since."""
    converted = {key: value for key, value in ip.items() if key != "version"}
    if not _at_least(version, "1.0.0"):
        converted = {"version": "6" if ":" in str(ip.get("address", "")) else "4", **converted}
    return converted


def _at_least(version: str, since: str) -> bool:
    return protocol.VERSIONS.index(version) >= protocol.VERSIONS.index(since)
