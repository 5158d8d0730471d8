"""Renders the filter rules of cnf's network namespace: fleet traffic passes between pods and tunnel, nothing else.

The namespace has an uplink into the cluster's own network, pod interfaces (``fv*``) and the tunnel. Invariant: no
packet is forwarded from or to the uplink, and no packet with a fleet address crosses it unencrypted, whatever routes or
a tampered member say.

A rule that accepts known connections never comes before the rule on interfaces. A TCP segment that opens a connection
(SYN without ACK) is always judged on its own. Therefore segments in mid-stream may pass without an entry in the
tracking table: connections survive its loss, and nobody can open one that way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from fleetboard.model import names
from fleetboard.model.addresses import Address, Network

NAME = "fleetboard"
TABLE = f"inet {NAME}"

COUNTERS = (
    "forward_interface",
    "forward_address",
    "forward_transit",
    "forward_invalid",
    "no_endpoint",
    "not_exported",
    "input_refused",
    "redirects",
    "uplink_in",
    "uplink_out",
)
"""Named counters of what was dropped or rejected, as metrics show them."""

_TUNNEL = f'"{names.TUNNEL_INTERFACE}"'
_POD = f'"{names.VETH_PREFIX}*"'

_FAMILY = {4: "ip", 6: "ip6"}
_ERRORS = {
    4: "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
    6: "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
}
_ADDRESS_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NodeFirewall:
    """The firewall of a member's node.

    Attributes:
        fleet: The fleet CIDRs.
        vips: Ranges of virtual addresses.
        own: Blocks of this cluster.
        node_addresses: The node's fleet addresses, the source of hairpin connections.
        other_nodes: Fleet addresses of the cluster's other nodes.
    """

    fleet: tuple[Network, ...]
    vips: tuple[Network, ...]
    own: tuple[Network, ...]
    node_addresses: tuple[Address, ...]
    other_nodes: tuple[Address, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RelayFirewall:
    """The firewall of the relay, which has neither pods nor virtual addresses of its own."""

    fleet: tuple[Network, ...]
    vips: tuple[Network, ...]


Firewall = NodeFirewall | RelayFirewall


def versions(firewall: Firewall) -> list[int]:
    """Return the address families of the fleet."""
    return sorted({network.version for network in firewall.fleet})


def render(firewall: Firewall) -> str:
    """Render counters, address sets and filter chains: the body of the table without virtual addresses."""
    lines = [f"  counter {name} {{ }}" for name in COUNTERS]
    for version in versions(firewall):
        lines.append(_address_set(f"fleet{version}", firewall.fleet, version))
        lines.append(_address_set(f"vips{version}", firewall.vips, version))
        if isinstance(firewall, NodeFirewall):
            kind = _ADDRESS_TYPE[version]
            lines.append(_address_set(f"own{version}", firewall.own, version))
            lines.append(f"  set exported{version} {{ type {kind} . inet_proto . inet_service; }}")
    lines += [*_untracked(), *_clamp(), *_rejections()]
    lines += _node_forward(firewall) if isinstance(firewall, NodeFirewall) else _relay_forward(firewall)
    lines += [*_input(firewall), *_output(firewall)]
    return "\n".join(lines) + "\n"


def address_sets(firewall: Firewall) -> list[str]:
    """Name the sets whose members ``render`` writes."""
    kinds = ("fleet", "vips", "own") if isinstance(firewall, NodeFirewall) else ("fleet", "vips")
    return [f"{kind}{version}" for version in versions(firewall) for kind in kinds]


def _address_set(name: str, networks: Iterable[Network], version: int) -> str:
    members = ", ".join(sorted(str(network) for network in networks if network.version == version))
    elements = f" elements = {{ {members} }};" if members else ""
    # auto-merge: a cluster that grows gets adjacent blocks.
    return f"  set {name} {{ type {_ADDRESS_TYPE[version]}; flags interval; auto-merge;{elements} }}"


def _drop(counter: str) -> str:
    return f"counter name {counter} drop"


def _chain(name: str, rules: Iterable[str], *, hook: str = "") -> Iterator[str]:
    yield f"  chain {name} {{"
    if hook:
        yield f"    type filter hook {hook};"
    yield from (f"    {rule}" for rule in rules)
    yield "  }"


def _untracked() -> Iterator[str]:
    # Relayed packets need no state: a new leader takes over in mid-stream, and the relay's table can't fill up.
    rules = [f"iifname {_TUNNEL} fib daddr oifname {_TUNNEL} notrack"]
    return _chain("relay", rules, hook="prerouting priority raw; policy accept")


def _clamp() -> Iterator[str]:
    # The mark selected a slot in prerouting, and has no meaning from here on.
    rules = ["meta mark set 0", "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"]
    return _chain("clamp", rules, hook="forward priority mangle; policy accept")


def _rejections() -> Iterator[str]:
    refuse = [
        "counter name no_endpoint",
        "meta l4proto tcp reject with tcp reset",
        "reject with icmpx port-unreachable",
    ]
    yield from _chain("refuse", refuse)
    yield from _chain("prohibit", ["counter name not_exported", "reject with icmpx admin-prohibited"])


def _forward_base(firewall: Firewall, *, interfaces: Iterable[str]) -> Iterator[str]:
    yield from interfaces
    for version in versions(firewall):
        ip = _FAMILY[version]
        yield f"{ip} saddr @vips{version} {_drop('forward_address')}"
        yield f"{ip} saddr != @fleet{version} {_drop('forward_address')}"
        yield f"{ip} daddr @vips{version} goto refuse"
        yield f"{ip} daddr != @fleet{version} {_drop('forward_address')}"
    for version in {4, 6}.difference(versions(firewall)):
        yield f"meta nfproto ipv{version} {_drop('forward_address')}"


def _relay_forward(firewall: RelayFirewall) -> Iterator[str]:
    interfaces = [
        f"iifname != {_TUNNEL} {_drop('forward_interface')}",
        f"oifname != {_TUNNEL} {_drop('forward_interface')}",
    ]
    rules = [*_forward_base(firewall, interfaces=interfaces), "accept"]
    return _chain("forward", rules, hook="forward priority filter; policy drop")


def _node_forward(firewall: NodeFirewall) -> Iterator[str]:
    interfaces = [f"{end} != {_TUNNEL} {end} != {_POD} {_drop('forward_interface')}" for end in ("iifname", "oifname")]
    rules = [
        *_forward_base(firewall, interfaces=interfaces),
        f"iifname {_TUNNEL} oifname {_TUNNEL} goto transit",
        # Out of a connection's window: its answer would reach the client under the endpoint's address, not the VIP's.
        f"ct state invalid {_drop('forward_invalid')}",
        f"iifname {_TUNNEL} goto arrival",
        "accept",
    ]
    yield from _chain("transit", _transit(firewall))
    yield from _chain("arrival", _arrival(firewall))
    yield from _chain("forward", rules, hook="forward priority filter; policy drop")


def _transit(firewall: NodeFirewall) -> Iterator[str]:
    """Render the leader's rules: it carries between its own cluster and the relay, never between two others.

    The relay accepts a standby's address only from the standby's own session. So the leader sends other nodes' ICMP
    errors under its own address, as a router on the way may: clients elsewhere must learn of a refusal or a lower MTU.
    """
    for address in firewall.node_addresses:
        ip = _FAMILY[address.version]
        others = ", ".join(sorted(str(other) for other in firewall.other_nodes if other.version == address.version))
        if others:
            yield f"{ip} saddr {{ {others} }} {_ERRORS[address.version]} {ip} saddr set {address} accept"
    for version in versions(firewall):
        for end in ("saddr", "daddr"):
            yield f"{_FAMILY[version]} {end} @own{version} accept"
    yield _drop("forward_transit")


def _arrival(firewall: NodeFirewall) -> Iterator[str]:
    """Render the rules for what comes out of the tunnel for a pod of this node."""
    for version in versions(firewall):
        ip = _FAMILY[version]
        yield f"{ip} saddr @own{version} accept"
        yield f"{ip} daddr . meta l4proto . th dport @exported{version} accept"
    yield "tcp flags & (syn | ack) == syn goto prohibit"
    yield "ct state established,related accept"
    yield "tcp flags & (syn | ack) == ack accept"
    yield "icmp type echo-request accept"
    yield "icmpv6 type echo-request accept"
    yield "goto prohibit"


def _input(firewall: Firewall) -> Iterator[str]:
    # Neither pods nor members reach cnf's own sockets; this table leaves the uplink's traffic for cnf alone.
    fleet = [f"icmp type redirect {_drop('redirects')}", f"icmpv6 type nd-redirect {_drop('redirects')}"]
    uplink = []
    for version in versions(firewall):
        ip = _FAMILY[version]
        if version == 6:
            fleet.append("meta l4proto ipv6-icmp accept")  # neighbour discovery uses link-local addresses
        fleet.append(f"{ip} saddr @fleet{version} {ip} daddr @fleet{version} goto to_node")
        uplink += [f"{ip} {end} @fleet{version} {_drop('uplink_in')}" for end in ("saddr", "daddr")]
    to_node = [
        "meta l4proto { icmp, ipv6-icmp } accept",
        f"iifname {_TUNNEL} udp dport {names.PROBE_PORT} accept",
        "ct direction reply ct state established accept",
        _drop("input_refused"),
    ]
    yield from _chain("to_node", to_node)
    yield from _chain("from_fleet", [*fleet, _drop("input_refused")])
    rules = ['iifname "lo" accept', f"iifname {_TUNNEL} goto from_fleet", f"iifname {_POD} goto from_fleet", *uplink]
    yield from _chain("input", rules, hook="input priority filter; policy accept")


def _output(firewall: Firewall) -> Iterator[str]:
    rules = [
        f"icmp type redirect {_drop('redirects')}",
        f"icmpv6 type nd-redirect {_drop('redirects')}",
        *(f"oifname {name} accept" for name in ('"lo"', _TUNNEL, _POD)),
        *(f"{_FAMILY[version]} daddr @fleet{version} {_drop('uplink_out')}" for version in versions(firewall)),
    ]
    return _chain("output", rules, hook="output priority filter; policy accept")
