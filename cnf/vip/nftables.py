"""Renders a VipTable as nftables maps, and the differences between two of them; hands text to nft.

A virtual address and port is in one map alone, by its size class and affinity. The rules try the maps in turn: a miss
falls through to the next, so their number doesn't grow with the services. The slot comes as packet mark: one hash for
all size classes, and map types without expressions in them (some releases of nft crash on reading those back).

One invariant: one call of ``apply`` is one transaction. The kernel takes all of it or nothing.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from cnf.vip import errors, firewall, slots
from cnf.vip.firewall import Firewall, NodeFirewall
from cnf.vip.table import Backend, Frontend, VipTable
from fleetboard.model import names

SEED = 0xF1EE7B0A
"""Of the packet hash. Never change it: nodes and restarts must agree on who answers a connection."""

TIMEOUT_S = 60.0
NFT = ("nft", "-f", "-")

_TABLE = firewall.TABLE
_CLOSED_TABLE = "inet fleetboard_closed"
CLOSED = f"table {_CLOSED_TABLE} {{ chain forward {{ type filter hook forward priority filter; policy drop; }}; }}\n"
"""Forwards nothing, until ``render_base`` is in force."""
_LOCATION = re.compile(r"^\S*?:(\d+):\d+(?:-\d+)?: (?:Error: )?(.*)$", re.MULTILINE)
_FAMILY = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}

Elements = Mapping[str, Mapping[str, str]]
"""Elements by map or set: key to value, which is empty for sets."""


def render_base(wall: Firewall) -> str:
    """Render the whole table, in place of the one that may be there, with empty maps."""
    parts = [f"{verb} table {name}" for name in (_CLOSED_TABLE, _TABLE) for verb in ("add", "delete")]
    parts += [f"table {_TABLE} {{", firewall.render(wall).rstrip("\n")]
    if isinstance(wall, NodeFirewall):
        parts += _translation(wall)
    return "\n".join([*parts, "}"]) + "\n"


def render_changes(old: VipTable, new: VipTable) -> str:
    """Render what turns ``old`` into ``new``; empty when nothing does.

    Only the slots that change hands are written.
    """
    changed = [
        frontend
        for frontend in old.backends.keys() | new.backends.keys()
        if old.backends.get(frontend) != new.backends.get(frontend)
    ]
    before = _merge(_slot_elements(old.backends, changed), _set_elements(old, but=new))
    after = _merge(_slot_elements(new.backends, changed), _set_elements(new, but=old))
    gone = {name: _missing(elements, after.get(name, {})) for name, elements in before.items()}
    come = {name: _missing(elements, before.get(name, {})) for name, elements in after.items()}
    deletions = (
        f"delete element {_TABLE} {name} {{ {', '.join(sorted(keys))} }}" for name, keys in gone.items() if keys
    )
    additions = (
        f"add element {_TABLE} {name} {{ {', '.join(_element(key, keys[key]) for key in sorted(keys))} }}"
        for name, keys in come.items()
        if keys
    )
    lines = [*deletions, *additions]
    return "\n".join(lines) + "\n" if lines else ""


def apply(text: str, *, timeout_s: float = TIMEOUT_S) -> None:
    """Hand one transaction to the kernel, in the network namespace of the calling thread.

    Raises:
        RulesetRefusedError: nothing of it is in force.
        NftUnavailableError: nft is not there or was killed; whether the transaction took place is unknown.
    """
    try:
        done = subprocess.run(NFT, input=text, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as err:
        raise errors.NftUnavailableError(f"nft gave no answer within {timeout_s:g} s") from err
    except OSError as err:
        raise errors.NftUnavailableError(f"nft can't be started: {err.strerror}") from err
    if done.returncode < 0:
        raise errors.NftUnavailableError(f"nft was ended by signal {-done.returncode}")
    if done.returncode:
        raise errors.RulesetRefusedError(_refusal(done.stderr, text))


def _refusal(stderr: str, text: str) -> str:
    """Return nft's reason and the first line it complains about, cut to what a log line holds."""
    found = _LOCATION.search(stderr)
    if found is None:
        return f"nft refused the ruleset: {stderr.strip()[:300] or 'no reason given'}"
    number = int(found[1])
    lines = text.splitlines()
    line = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    return f"nft refused line {number} of the ruleset: {found[2].strip()[:300]}: {line[:200]}"


def _map_name(version: int, size: int, *, sticky: bool) -> str:
    return f"{'sticky' if sticky and size > 1 else 'spread'}{version}_{size}"


def _translation(wall: NodeFirewall) -> Iterator[str]:
    """Render maps and chains of the virtual addresses."""
    for version in firewall.versions(wall):
        ip, kind = _FAMILY[version]
        yield f"  set hairpin{version} {{ type {kind} . {kind}; }}"
        yield from _maps(version)
        yield f"  chain choose{version} {{"
        yield from (f"    {rule}" for rule in _choices(version))
        yield "  }"
    # Only packets from pods: a VIP that comes out of the tunnel has lost its way and is refused when forwarded.
    yield "  chain translate {"
    yield "    type nat hook prerouting priority dstnat; policy accept;"
    for version in firewall.versions(wall):
        ip, _ = _FAMILY[version]
        pods = f'iifname "{names.VETH_PREFIX}*"'
        yield f"    {pods} {ip} daddr @vips{version} meta l4proto {{ tcp, udp, sctp }} goto choose{version}"
    yield "  }"
    yield "  chain hairpin {"
    yield "    type nat hook postrouting priority srcnat; policy accept;"
    for address in wall.node_addresses:
        ip, _ = _FAMILY[address.version]
        # A pod drops what comes to it from its own address.
        yield f"    ct status dnat {ip} saddr . {ip} daddr @hairpin{address.version} snat {ip} to {address}"
    yield "  }"


def _maps(version: int) -> Iterator[str]:
    _, kind = _FAMILY[version]
    for sticky in (False, True):
        for size in slots.SIZES[1:] if sticky else slots.SIZES:
            slot = " . mark" if size > 1 else ""
            name = _map_name(version, size, sticky=sticky)
            yield f"  map {name} {{ type {kind} . inet_proto . inet_service{slot} : {kind} . inet_service; }}"


def _choices(version: int) -> Iterator[str]:
    """Render the rules that try one map after the other, largest slot numbers first."""
    ip, _ = _FAMILY[version]
    key = f"{ip} daddr . meta l4proto . th dport"
    largest = slots.SIZES[-1]
    yield f"dnat {ip} to {key} map @{_map_name(version, 1, sticky=False)}"
    for sticky in (False, True):
        hashed = f"{ip} saddr" if sticky else f"{ip} saddr . {ip} daddr . th sport . th dport"
        yield f"meta mark set jhash {hashed} mod {largest} seed {SEED:#x}"
        for size in reversed(slots.SIZES[1:]):
            if size != largest:
                yield f"meta mark set meta mark & {size - 1:#x}"
            yield f"dnat {ip} to {key} . meta mark map @{_map_name(version, size, sticky=sticky)}"


def _slot_elements(backends: Mapping[Frontend, Backend], frontends: Iterable[Frontend]) -> dict[str, dict[str, str]]:
    elements: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for frontend in frontends:
        backend = backends.get(frontend)
        if backend is None or not backend.targets:
            continue
        owners = slots.assign(tuple(sorted(f"{target.address} . {target.port}" for target in backend.targets)))
        name = _map_name(frontend.address.version, len(owners), sticky=backend.sticky)
        key = f"{frontend.address} . {frontend.protocol} . {frontend.port}"
        if len(owners) == 1:
            elements[name][key] = owners[0]
        else:
            elements[name].update((f"{key} . {slot}", owner) for slot, owner in enumerate(owners))
    return elements


def _set_elements(table: VipTable, *, but: VipTable) -> dict[str, dict[str, str]]:
    elements: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for port in table.exported - but.exported:
        elements[f"exported{port.address.version}"][f"{port.address} . {port.protocol} . {port.port}"] = ""
    for address in table.hairpin - but.hairpin:
        elements[f"hairpin{address.version}"][f"{address} . {address}"] = ""
    return elements


def _merge(first: dict[str, dict[str, str]], second: dict[str, dict[str, str]]) -> Elements:
    return {**first, **second}


def _missing(elements: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Return the elements that ``others`` lacks or has with another value."""
    return {key: value for key, value in elements.items() if others.get(key) != value}


def _element(key: str, value: str) -> str:
    return f"{key} : {value}" if value else key
