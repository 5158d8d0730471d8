"""Renders chains, maps and sets as nft's text, and hands that to nft; ``cnf.vip.elements`` renders the maps' content.

The rules try the maps in turn: a miss falls through to the next, so the number of rules doesn't grow with the services.
The packet's mark carries the slot: one hash serves all size classes, and no map type holds an expression, which some
releases of nft can't read back without a crash.

One call of ``apply`` is one transaction: the kernel accepts all of it or nothing.
"""

from __future__ import annotations

import re
import subprocess
import zlib
from collections.abc import Iterator

from cnf.vip import elements, errors, slots, transaction
from cnf.vip import firewall as vip_firewall
from cnf.vip.firewall import Firewall, NodeFirewall
from fleetboard.model import names

SEED = 0xF1EE7B0A
"""Seed of the packet hash. Never change it: nodes and restarts must agree on the endpoint of a connection."""

TIMEOUT_S = 60.0
NFT = ("nft", "-f", "-")

CLOSED_TABLE = "fleetboard_closed"
CLOSED_CHAIN = "forward"
# Before the table's own rules: with empty maps they would reject packets that had better be sent again.
_DROP = "type filter hook forward priority filter - 1; policy drop;"
# Deleted first: the kernel refuses a chain that exists with another priority.
CLOSED = (
    f"add table inet {CLOSED_TABLE}\ndelete table inet {CLOSED_TABLE}\n"
    f"table inet {CLOSED_TABLE} {{ chain {CLOSED_CHAIN} {{ {_DROP} }}; }}\n"
)
"""Forwards nothing, until the table's maps are full."""
SPARE_TABLE = f"{vip_firewall.NAME}_spare"
"""Serves while the table itself is created again."""
_TABLE = vip_firewall.TABLE


def _without(name: str, *, flags: str = "") -> str:
    return f"add table inet {name}{flags}\ndelete table inet {name}\n"


def _without_waking(name: str) -> str:
    """Delete a table that may be dormant, half filled, beside the one that serves.

    nft declares a table with all its flags: without ``dormant`` the kernel would hook a dormant table's chains at
    once, not at the end of the transaction, and they would judge packets by empty sets.
    """
    return _without(name, flags=" { flags dormant; }")


# It may wake a dormant table: no packet gets that far, as the chain that drops comes first, here and on the hook.
CLOSED_ONLY = CLOSED + _without(vip_firewall.NAME) + _without(SPARE_TABLE)
"""Forwards nothing, and deletes the tables whose maps may be empty."""
_LOCATION = re.compile(r"^\S*?:(\d+):\d+(?:-\d+)?: (?:Error: )?(.*)$", re.MULTILINE)
_FAMILY = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}

_DECLARATION = re.compile(r"\s*(?:counter \w+ \{|set |map |chain |type \w+ hook )")
_MEMBERS = re.compile(r" elements = \{[^}]*\};")


def render_base(firewall: Firewall) -> str:
    """Render the whole table, with empty maps, in place of any former one; it forwards nothing yet.

    Delete ``CLOSED_TABLE`` once the elements are in the maps.
    """
    return f"{CLOSED_ONLY}table {_TABLE} {{\n{_render_all(firewall)}}}\n"


def render_dormant(firewall: Firewall, name: str) -> str:
    """Render the whole table under ``name``, in place of any former one; no packet meets it until it is woken."""
    return f"{_without_waking(name)}table inet {name} {{\n  flags dormant;\n{_render_all(firewall)}}}\n"


def render_rules(firewall: Firewall) -> str:
    """Render ``firewall``'s rules in place of the former ones, and leave the maps' elements and the counters alone.

    The kernel refuses them without a table of exactly this layout. ``CLOSED_TABLE`` exists afterwards, without its
    chain if it is new, and ``SPARE_TABLE`` doesn't.
    """
    return "".join(
        (
            f"flush chain {_TABLE} {_layout(firewall)}\n",
            f"add table inet {CLOSED_TABLE}\n",
            _without_waking(SPARE_TABLE),
            f"flush table {_TABLE}\n",
            *(f"flush set {_TABLE} {name}\n" for name in vip_firewall.address_sets(firewall)),
            f"table {_TABLE} {{\n{_render_body(firewall)}}}\n",
        )
    )


def _render_all(firewall: Firewall) -> str:
    return f"{_render_body(firewall)}  chain {_layout(firewall)} {{ }}\n"


def _render_body(firewall: Firewall) -> str:
    lines = [vip_firewall.render(firewall).rstrip("\n")]
    if isinstance(firewall, NodeFirewall):
        lines += _translation(firewall)
    return "\n".join(lines) + "\n"


def _layout(firewall: Firewall) -> str:
    """Name the empty chain that marks a table of these chains, hooks, maps and types: other versions have another."""
    declared = "\n".join(line for line in _render_body(firewall).splitlines() if _DECLARATION.match(line))
    return f"layout_{zlib.crc32(_MEMBERS.sub('', declared).encode()):08x}"


def apply(text: str, *, timeout_s: float = TIMEOUT_S) -> None:
    """Hand one transaction to the kernel, in the network namespace of the calling thread.

    Raises:
        RulesetRefusedError: nothing of it is in force.
        NftUnavailableError: nft is missing or was killed; whether the transaction took place is unknown.
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
        raise errors.RulesetRefusedError(describe_refusal(done.stderr, text))


def serving() -> str | None:
    """Name our table that forwards, None without one; a table whose maps were never filled doesn't forward.

    Raises:
        NftUnavailableError: the kernel gave no answer.
    """
    if transaction.chain_exists(CLOSED_TABLE, CLOSED_CHAIN):
        return None
    tables = (SPARE_TABLE, vip_firewall.NAME)
    return next((name for name in tables if transaction.table_active(name)), None)


def describe_refusal(stderr: str, text: str) -> str:
    """Return nft's reason and the first line that it complains about, cut to what a log line holds."""
    location = _LOCATION.search(stderr)
    if location is None:
        return f"nft refused the ruleset: {stderr.strip()[:300] or 'no reason given'}"
    number = int(location[1])
    lines = text.splitlines()
    line = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    return f"nft refused line {number} of the ruleset: {location[2].strip()[:300]}: {line[:200]}"


def _translation(firewall: NodeFirewall) -> Iterator[str]:
    """Render maps and chains of the virtual addresses."""
    for version in vip_firewall.versions(firewall):
        ip, kind = _FAMILY[version]
        yield f"  set hairpin{version} {{ type {kind} . {kind}; }}"
        yield from _maps(version)
        yield f"  chain choose{version} {{"
        yield from (f"    {rule}" for rule in _choices(version))
        yield "  }"
    # Only packets from pods: a virtual address that comes out of the tunnel is astray, and is rejected when forwarded.
    yield "  chain translate {"
    yield "    type nat hook prerouting priority dstnat; policy accept;"
    for version in vip_firewall.versions(firewall):
        ip, _ = _FAMILY[version]
        pods = f'iifname "{names.VETH_PREFIX}*"'
        yield f"    {pods} {ip} daddr @vips{version} meta l4proto {{ tcp, udp, sctp }} goto choose{version}"
    yield "  }"
    yield "  chain hairpin {"
    yield "    type nat hook postrouting priority srcnat; policy accept;"
    for address in firewall.node_addresses:
        ip, _ = _FAMILY[address.version]
        # A pod drops packets that come from its own address.
        yield f"    ct status dnat {ip} saddr . {ip} daddr @hairpin{address.version} snat {ip} to {address}"
    yield "  }"


def _maps(version: int) -> Iterator[str]:
    _, kind = _FAMILY[version]
    for sticky in (False, True):
        for size in slots.SIZES[1:] if sticky else slots.SIZES:
            slot = " . mark" if size > 1 else ""
            name = elements.map_name(version, size, sticky=sticky)
            yield f"  map {name} {{ type {kind} . inet_proto . inet_service{slot} : {kind} . inet_service; }}"


def _choices(version: int) -> Iterator[str]:
    """Render the rules that try one map after another, the largest slot numbers first."""
    ip, _ = _FAMILY[version]
    key = f"{ip} daddr . meta l4proto . th dport"
    largest = slots.SIZES[-1]
    yield f"dnat {ip} to {key} map @{elements.map_name(version, 1, sticky=False)}"
    for sticky in (False, True):
        hashed = f"{ip} saddr" if sticky else f"{ip} saddr . {ip} daddr . th sport . th dport"
        yield f"meta mark set jhash {hashed} mod {largest} seed {SEED:#x}"
        for size in reversed(slots.SIZES[1:]):
            if size != largest:
                yield f"meta mark set meta mark & {size - 1:#x}"
            yield f"dnat {ip} to {key} . meta mark map @{elements.map_name(version, size, sticky=sticky)}"
