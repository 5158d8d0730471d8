"""Only the elements that differ are written, and a refused change is made good by the whole table."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnf.vip import conntrack, errors, nftables, plane, table
from cnf.vip.firewall import HubFirewall, NodeFirewall
from cnf.vip.table import Backend, ExportedPort, Frontend, Target, VipTable
from fleetboard.model.addresses import Network

FLEET = (ipaddress.ip_network("10.112.0.0/12"),)
VIPS = (ipaddress.ip_network("10.112.0.0/16"),)
HUB = HubFirewall(fleet=FLEET, vips=VIPS)


def front(number: int, protocol: table.Protocol = "tcp") -> Frontend:
    return Frontend(ipaddress.ip_address(f"10.112.0.{number}"), protocol, 80)


def back(*numbers: int, sticky: bool = False) -> Backend:
    return Backend(tuple(Target(ipaddress.ip_address(f"10.113.0.{n}"), 8080) for n in sorted(numbers)), sticky=sticky)


def wall(*own: str) -> NodeFirewall:
    blocks = tuple(ipaddress.ip_network(block) for block in own or ("10.113.0.0/22",))
    return NodeFirewall(fleet=FLEET, vips=VIPS, own=blocks, node_addresses=(ipaddress.ip_address("10.113.0.0"),))


class Kernel:
    """What nft would make of rendered changes: refuses what the kernel refuses."""

    def __init__(self) -> None:
        self.elements: dict[tuple[str, str], str] = {}
        self.written: Counter[str] = Counter()

    def take(self, text: str) -> None:
        for verb, name, body in re.findall(r"^(add|delete) element inet fleetboard (\w+) \{ (.*) \}$", text, re.M):
            for element in body.split(", "):
                key, _, value = element.partition(" : ")
                self.written[verb] += 1
                if verb == "delete":
                    del self.elements[name, key]
                else:
                    assert self.elements.setdefault((name, key), value) == value, f"{element} is there already"


backends = st.builds(
    lambda numbers, sticky: back(*numbers, sticky=sticky), st.sets(st.integers(1, 9), max_size=8), st.booleans()
)
exports = st.sets(st.integers(1, 5)).map(
    lambda numbers: frozenset(ExportedPort(ipaddress.ip_address(f"10.113.0.{n}"), "tcp", 80) for n in numbers)
)
tables = st.builds(VipTable, backends=st.dictionaries(st.integers(1, 4).map(front), backends), exported=exports)


@given(st.lists(tables, min_size=2, max_size=4))
def test_changes_in_turn_lead_where_a_fresh_start_does(steps: list[VipTable]) -> None:
    kernel, fresh = Kernel(), Kernel()
    for old, new in zip([table.EMPTY, *steps], steps, strict=False):
        kernel.take(nftables.render_changes(old, new))
    fresh.take(nftables.render_changes(table.EMPTY, steps[-1]))

    assert kernel.elements == fresh.elements


@given(tables)
def test_no_difference_is_no_text(one: VipTable) -> None:
    assert nftables.render_changes(one, VipTable(dict(one.backends), one.exported, one.hairpin)) == ""


def test_one_endpoint_more_writes_its_slots_alone() -> None:
    old = VipTable({front(1): back(1, 2, 3), front(2): back(4, 5)})
    new = VipTable({front(1): back(1, 2, 3, 4), front(2): back(4, 5)})
    kernel = Kernel()
    kernel.take(nftables.render_changes(table.EMPTY, old))
    kernel.written.clear()

    kernel.take(nftables.render_changes(old, new))

    assert kernel.written["add"] == kernel.written["delete"] <= 8
    assert all(key.startswith("10.112.0.1 ") for _, key in set(kernel.elements) if "10.113.0.4" in key)


@pytest.mark.parametrize("firewall", [wall(), HUB])
def test_the_interfaces_are_judged_before_anything_is_accepted(firewall: NodeFirewall | HubFirewall) -> None:
    text = nftables.render_base(firewall)
    chain = text[text.index("chain forward {") :].split("}")[0]

    rules = [line.strip() for line in chain.splitlines()[1:]]
    assert rules[0].endswith("policy drop;")
    assert [rule.split()[0] for rule in rules[1:3]] == ["iifname", "oifname"]
    assert all(rule.endswith("drop") for rule in rules[1:3])
    assert "eth0" not in text


def test_nfts_complaint_is_cut_to_the_first_reason_and_its_line() -> None:
    stderr = (
        "/dev/stdin:2:13-16: Error: No such file or directory\nadd element x\n    ^^^\n/dev/stdin:3:1-2: Error: b\n"
    )

    assert nftables._refusal(stderr, "add table x\n  add element x\nc\n") == (
        "nft refused line 2 of the ruleset: No such file or directory: add element x"
    )


class Nft:
    """Counts transactions, and refuses those that a predicate says."""

    def __init__(self) -> None:
        self.transactions: list[str] = []
        self.refuses: Callable[[str], bool] = lambda _: False
        self.evicted: list[Mapping[Frontend, frozenset[Target]]] = []

    def apply(self, text: str) -> None:
        self.transactions.append(text)
        if self.refuses(text):
            raise errors.RulesetRefusedError("refused")

    def evict(self, answering: Mapping[Frontend, frozenset[Target]], ranges: Sequence[Network]) -> int:
        self.evicted.append(answering)
        if answering and self.refuses("evict"):
            raise errors.ConntrackError("refused")
        return len(answering)

    def plane(self) -> plane.VipPlane:
        made = plane.VipPlane(apply=self.apply, evict=self.evict)
        made.sync(table.EMPTY)
        made.set_base(wall())
        return made


def is_whole(text: str) -> bool:
    return "delete table" in text


def test_a_refused_change_is_made_good_by_the_whole_table() -> None:
    nft = Nft()
    made = nft.plane()
    nft.refuses = lambda text: not is_whole(text)

    made.sync(VipTable({front(1): back(1)}))

    assert [is_whole(text) for text in nft.transactions] == [True, False, True]
    assert "10.113.0.1 . 8080" in nft.transactions[-1]


def test_when_the_whole_table_is_refused_too_the_caller_learns_it_and_the_next_try_is_whole() -> None:
    nft = Nft()
    made = nft.plane()
    nft.refuses = lambda _: True
    with pytest.raises(errors.RulesetRefusedError):
        made.sync(VipTable({front(1): back(1)}))

    nft.refuses = lambda _: False
    made.sync(VipTable({front(1): back(1)}))

    assert [is_whole(text) for text in nft.transactions] == [True, False, True, True]


def test_the_same_again_writes_nothing() -> None:
    nft = Nft()
    made = nft.plane()
    made.sync(VipTable({front(1): back(1)}))
    made.sync(VipTable({front(1): back(1)}))
    made.set_base(wall())

    assert len(nft.transactions) == 2


def test_other_blocks_of_the_cluster_replace_the_table_with_its_addresses() -> None:
    nft = Nft()
    made = nft.plane()
    made.sync(VipTable({front(1): back(1)}))

    made.set_base(wall("10.113.0.0/22", "10.113.4.0/22"))

    assert is_whole(nft.transactions[-1])
    assert "10.113.4.0/22" in nft.transactions[-1]
    assert "10.113.0.1 . 8080" in nft.transactions[-1]


def test_flows_that_couldnt_be_freed_are_tried_again() -> None:
    nft = Nft()
    made = nft.plane()
    old = VipTable({front(1, "udp"): back(1, 2)})
    new = VipTable({front(1, "udp"): back(2)})
    made.sync(old)
    nft.refuses = lambda text: text == "evict"
    with pytest.raises(errors.ConntrackError):
        made.sync(new)
    nft.refuses = lambda _: False

    made.sync(new)

    assert nft.evicted[-1] == {front(1, "udp"): frozenset(back(2).targets)}


def test_only_udp_frontends_that_lost_a_target_have_flows_freed() -> None:
    old = VipTable({front(1, "udp"): back(1, 2), front(2, "udp"): back(1), front(3): back(1), front(4, "udp"): back(1)})
    new = VipTable({front(1, "udp"): back(2), front(2, "udp"): back(1, 2), front(3): back(2)})

    assert conntrack.stale_udp(old, new) == {
        front(1, "udp"): frozenset(back(2).targets),
        front(4, "udp"): frozenset(),
    }
