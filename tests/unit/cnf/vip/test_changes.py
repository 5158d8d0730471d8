"""Only the elements that differ are written, and a refused change is made good by the whole table."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vip_objects import back, backends, front

from cnf.vip import conntrack, elements, errors, firewall, nftables, table, transaction, writer
from cnf.vip.firewall import NodeFirewall, RelayFirewall
from cnf.vip.table import Backend, BackendAddress, ExportedPort, Frontend, VipTable
from fleetboard.model.addresses import Network

FLEET = (ipaddress.ip_network("10.112.0.0/12"),)
VIPS = (ipaddress.ip_network("10.112.0.0/16"),)
HUB = RelayFirewall(fleet=FLEET, vips=VIPS)


def wall(*own: str) -> NodeFirewall:
    blocks = tuple(ipaddress.ip_network(block) for block in own or ("10.113.0.0/22",))
    return NodeFirewall(fleet=FLEET, vips=VIPS, own=blocks, node_addresses=(ipaddress.ip_address("10.113.0.0"),))


class FakeNftables:
    """What the kernel would make of changes: refuses what it refuses."""

    def __init__(self) -> None:
        self.elements: dict[tuple[str, bytes], bytes] = {}
        self.written: Counter[str] = Counter()

    def take(self, changes: elements.ElementChanges) -> None:
        for name, gone in changes.removed.items():
            for key in gone:
                self.written["gone"] += 1
                del self.elements[name, key]
        for name, come in changes.added.items():
            for key, value in come.items():
                self.written["come"] += 1
                assert (name, key) not in self.elements, f"{key.hex()} is there already"
                self.elements[name, key] = value


def exports_of(*numbers: int) -> frozenset[ExportedPort]:
    return frozenset(ExportedPort(ipaddress.ip_address(f"10.113.0.{n}"), "tcp", 80) for n in numbers)


exports = st.sets(st.integers(1, 5)).map(lambda numbers: exports_of(*numbers))
tables = st.builds(VipTable, backends=st.dictionaries(st.integers(1, 4).map(front), backends), exported=exports)


@given(st.lists(tables, min_size=2, max_size=4))
def test_changes_in_turn_lead_where_a_fresh_start_does(steps: list[VipTable]) -> None:
    kernel, fresh = FakeNftables(), FakeNftables()
    for old, new in zip([table.EMPTY, *steps], steps, strict=False):
        kernel.take(elements.difference(old, new))
    fresh.take(elements.difference(table.EMPTY, steps[-1]))

    assert kernel.elements == fresh.elements


@given(tables)
def test_no_difference_is_no_change(one: VipTable) -> None:
    assert not elements.difference(one, VipTable(dict(one.backends), one.exported, one.hairpin))


services = st.dictionaries(st.sampled_from("abcd"), tables, max_size=4)


@given(st.lists(services, min_size=2, max_size=4), st.randoms())
def test_replaced_shares_lead_where_all_of_them_do(steps: list[dict[str, VipTable]], random: Random) -> None:
    """Services that claim one address or export one port among them, as they come, go and stay."""
    kernel, fresh = FakeNftables(), FakeNftables()
    held: Mapping[str, VipTable] = {}
    for step in steps:
        kept = {key: held[key] for key in held if key in step and random.random() < 0.5}
        wanted = {**step, **kept}
        kernel.take(elements.difference(*table.difference(held, wanted)))
        held = wanted
    fresh.take(elements.difference(table.EMPTY, table.combine(held)))

    assert kernel.elements == fresh.elements


def test_one_services_change_costs_nothing_of_the_others() -> None:
    shares = {f"s{n}": VipTable({front(n): back(n, n + 1)}, exports_of(n)) for n in range(1, 200)}
    changed = {**shares, "s7": VipTable({front(7): back(7)}, exports_of(7))}

    before, after = table.difference(shares, changed)

    assert (set(before.backends), set(after.backends)) == ({front(7)}, {front(7)})
    assert (before.exported, after.exported) == (exports_of(7), exports_of(7))


def test_one_endpoint_more_writes_its_slots_alone() -> None:
    old = VipTable({front(1): back(1, 2, 3), front(2): back(4, 5)})
    new = VipTable({front(1): back(1, 2, 3, 6), front(2): back(4, 5)})
    kernel = FakeNftables()
    kernel.take(elements.difference(table.EMPTY, old))
    kernel.written.clear()

    kernel.take(elements.difference(old, new))

    assert kernel.written["come"] == kernel.written["gone"] <= 8
    sixth = ipaddress.ip_address("10.113.0.6").packed
    held = [key for (_, key), value in kernel.elements.items() if value.startswith(sixth)]
    assert held
    assert all(key.startswith(ipaddress.ip_address("10.112.0.1").packed) for key in held)


def test_affinity_moves_a_service_to_other_maps() -> None:
    made = elements.difference(VipTable({front(1): back(1, 2)}), VipTable({front(1): back(1, 2, sticky=True)}))

    assert (list(made.removed), list(made.added)) == (["spread4_16"], ["sticky4_16"])


def test_the_layout_is_the_same_whatever_the_clusters_blocks_are() -> None:
    """Or each block more would replace the table, and a table of other chains would pass for ours."""
    rules = nftables.render_rules(wall()).splitlines()[0]

    assert rules == nftables.render_rules(wall("10.113.0.0/22", "10.113.4.0/22")).splitlines()[0]
    assert rules != nftables.render_rules(HUB).splitlines()[0]
    assert f"{rules.split()[-1]} {{ }}" in nftables.render_base(wall())


@pytest.mark.parametrize("one", [wall(), HUB])
def test_the_interfaces_are_judged_before_anything_is_accepted(one: NodeFirewall | RelayFirewall) -> None:
    text = nftables.render_base(one)
    chain = text[text.rindex("  chain forward {") :].split("}")[0]

    rules = [line.strip() for line in chain.splitlines()[1:]]
    assert rules[0].endswith("policy drop;")
    assert [rule.split()[0] for rule in rules[1:3]] == ["iifname", "oifname"]
    assert all(rule.endswith("drop") for rule in rules[1:3])
    assert "eth0" not in text


def test_nfts_complaint_is_cut_to_the_first_reason_and_its_line() -> None:
    stderr = (
        "/dev/stdin:2:13-16: Error: No such file or directory\nadd element x\n    ^^^\n/dev/stdin:3:1-2: Error: b\n"
    )

    assert nftables.describe_refusal(stderr, "add table x\n  add element x\nc\n") == (
        "nft refused line 2 of the ruleset: No such file or directory: add element x"
    )


class Nft:
    """Counts transactions, and refuses those that a predicate says.

    Each is "base", "rules" or "elements".
    """

    def __init__(self) -> None:
        self.transactions: list[str] = []
        self.refuses: Callable[[str], bool] = lambda _: False
        self.error: type[errors.VipError] = errors.RulesetRefusedError
        self.evicted: list[Mapping[Frontend, frozenset[BackendAddress]]] = []
        self.batches: list[bytes] = []
        self.texts: list[str] = []
        self.there: str | None = None

    def _take(self, kind: str) -> None:
        self.transactions.append(kind)
        if self.refuses(kind):
            raise (errors.RulesetRefusedError if kind == "rules" else self.error)("refused")

    def apply(self, text: str) -> None:
        self.texts.append(text)
        self._take(
            "dormant"
            if "\n  flags dormant;\n" in text
            else "base"
            if "delete table inet fleetboard\n" in text
            else "rules"
        )

    def write(self, batch: transaction.Batch) -> None:
        self.batches.append(batch.content)
        self._take("elements")

    def evict(self, answering: Mapping[Frontend, frozenset[BackendAddress]], ranges: Sequence[Network]) -> int:
        self.evicted.append(answering)
        if answering and self.refuses("evict"):
            raise errors.ConntrackError("refused")
        return len(answering)

    def firewall_writer(self) -> writer.FirewallWriter:
        made = writer.FirewallWriter(apply=self.apply, write=self.write, evict=self.evict, serving=lambda: self.there)
        made.sync({})
        made.set_base(wall())
        self.transactions.clear()
        return made


ONE = {"a": VipTable({front(1): back(1)})}
TWO = {"a": VipTable({front(1): back(2)})}
FIRST, SECOND = (ipaddress.ip_address(f"10.113.0.{n}").packed for n in (1, 2))
OPENING = transaction.encode([elements.frame_table_deletion(nftables.CLOSED_TABLE)]).content


def test_a_refused_change_is_made_good_by_all_elements() -> None:
    nft = Nft()
    made = nft.firewall_writer()
    refusals = iter([True])
    nft.refuses = lambda _: next(refusals, False)

    made.sync(ONE)

    assert nft.transactions == ["elements", "rules", "elements"]
    assert ipaddress.ip_address("10.113.0.1").packed in nft.batches[-1]


def test_without_our_table_all_of_it_is_written() -> None:
    nft = Nft()
    nft.refuses = lambda kind: kind == "rules"
    made = writer.FirewallWriter(apply=nft.apply, write=nft.write, evict=nft.evict, serving=lambda: nft.there)
    made.sync(ONE)

    made.set_base(wall())

    assert nft.transactions == ["rules", "base", "elements"]


def names_of(batch: bytes) -> set[str]:
    return {name for name in (firewall.NAME, nftables.SPARE_TABLE) if f"{name}\0".encode() in batch}


def another_version_stands(there: str) -> tuple[Nft, writer.FirewallWriter]:
    nft = Nft()
    nft.refuses = lambda kind: kind == "rules"
    nft.there = there
    made = writer.FirewallWriter(apply=nft.apply, write=nft.write, evict=nft.evict, serving=lambda: nft.there)
    made.sync(ONE)
    return nft, made


def test_a_table_of_another_version_serves_until_a_spare_one_does_and_that_until_ours_does() -> None:
    nft, made = another_version_stands(firewall.NAME)

    made.set_base(wall())

    assert nft.transactions == ["rules", *["dormant", "elements", "elements"] * 2]
    fill_spare, to_spare, fill, to_ours = nft.batches
    assert (names_of(fill_spare), names_of(fill)) == ({nftables.SPARE_TABLE}, {firewall.NAME})
    assert to_spare == exchange(nftables.SPARE_TABLE, firewall.NAME)
    assert to_ours == exchange(firewall.NAME, nftables.SPARE_TABLE)
    assert FIRST in fill_spare
    assert FIRST in fill
    assert made.render() is not None


def exchange(woken: str, deleted: str) -> bytes:
    return transaction.encode([elements.frame_wake(woken), elements.frame_table_deletion(deleted)]).content


def test_a_spare_table_that_serves_is_taken_over_from_a_process_that_ended_in_between() -> None:
    """Rules that the sleeping table would take must not wake it: its maps may be empty."""
    nft, made = another_version_stands(nftables.SPARE_TABLE)
    nft.refuses = lambda _: False

    made.set_base(wall())

    assert nft.transactions == ["dormant", "elements", "elements"]
    assert nft.batches[-1] == exchange(firewall.NAME, nftables.SPARE_TABLE)


def test_where_no_spare_table_can_be_made_forwarding_stops_until_the_maps_are_full() -> None:
    nft, made = another_version_stands(firewall.NAME)
    nft.refuses = lambda kind: kind in ("rules", "dormant")

    made.set_base(wall())

    assert nft.transactions == ["rules", "dormant", "base", "elements"]
    assert made.render() is not None


def test_a_table_that_serves_is_kept_where_nft_is_killed_before_there_is_a_spare_one() -> None:
    nft, made = another_version_stands(firewall.NAME)
    nft.error = errors.NftUnavailableError
    nft.refuses = lambda kind: kind in ("rules", "dormant")

    with pytest.raises(errors.NftUnavailableError):
        made.set_base(wall())

    assert nft.transactions == ["rules", "dormant"]


def spare_serves(failing: list[str], error: type[errors.VipError]) -> tuple[Nft, writer.FirewallWriter]:
    """Let the exchange fail at the last of ``failing``, once the spare table serves."""
    nft, made = another_version_stands(firewall.NAME)
    nft.error = error
    to_spare = ["rules", "dormant", "elements", "elements"]
    nft.refuses = lambda kind: kind == "rules" or nft.transactions == [*to_spare, *failing]
    with pytest.raises(error):
        made.set_base(wall())
    assert nft.transactions == [*to_spare, *failing]
    nft.there = nftables.SPARE_TABLE
    nft.transactions.clear()
    return nft, made


@pytest.mark.parametrize("error", [errors.RulesetRefusedError, errors.NftUnavailableError])
@pytest.mark.parametrize("failing", [["dormant"], ["dormant", "elements"], ["dormant", "elements", "elements"]])
def test_a_spare_table_that_serves_all_is_kept_where_ours_fails_and_the_next_call_goes_on(
    failing: list[str], error: type[errors.VipError]
) -> None:
    nft, made = spare_serves(failing, error)
    nft.refuses = lambda _: False

    made.sync(ONE)

    assert nft.transactions == ["dormant", "elements", "elements"]
    assert nft.batches[-1] == exchange(firewall.NAME, nftables.SPARE_TABLE)
    assert made.render() is not None


def test_a_spare_table_is_given_up_only_where_it_lacks_what_is_wanted() -> None:
    nft, made = spare_serves(["dormant"], errors.RulesetRefusedError)
    nft.refuses = lambda kind: kind in ("rules", "dormant")

    for _ in range(2):
        with pytest.raises(errors.RulesetRefusedError):
            made.sync(ONE)
    assert nft.transactions == ["dormant"] * 2
    made.sync(TWO)

    assert nft.transactions == [*["dormant"] * 3, "base", "elements"]
    assert SECOND in nft.batches[-1]


def test_a_firewall_that_is_tried_again_keeps_to_the_services_that_the_spare_table_has() -> None:
    nft = Nft()
    made = nft.firewall_writer()
    made.sync(ONE)
    nft.there = firewall.NAME
    nft.transactions.clear()
    nft.refuses = lambda kind: kind == "rules" or nft.transactions in (["elements"], [*tried, "dormant"])
    tried = ["elements", "rules", "dormant", "elements", "elements"]
    with pytest.raises(errors.RulesetRefusedError):
        made.sync(TWO)
    nft.there, nft.refuses = nftables.SPARE_TABLE, lambda _: False

    made.set_base(wall())

    assert nft.transactions == [*tried, "dormant", "dormant", "elements", "elements"]
    assert SECOND in nft.batches[-2]
    assert FIRST not in nft.batches[-2]


def test_when_the_whole_table_is_refused_too_the_caller_learns_it_and_the_next_try_is_whole() -> None:
    nft = Nft()
    made = nft.firewall_writer()
    nft.refuses = lambda _: True
    with pytest.raises(errors.RulesetRefusedError):
        made.sync(ONE)
    assert made.render() is None
    nft.transactions.clear()

    nft.refuses = lambda _: False
    made.sync(ONE)

    assert nft.transactions == ["rules", "elements"]


def test_refused_elements_leave_the_table_and_the_former_ones_alone() -> None:
    """A replaced table would forward nothing until the refused elements are corrected."""
    nft = Nft()
    made = nft.firewall_writer()
    made.sync(ONE)
    nft.transactions.clear()
    nft.refuses = lambda kind: kind == "elements"

    with pytest.raises(errors.RulesetRefusedError):
        made.sync(TWO)

    assert nft.transactions[:3] == ["elements", "rules", "elements"]
    assert "base" not in nft.transactions
    assert nft.batches[-1] == OPENING


@pytest.mark.parametrize("error", [errors.RulesetRefusedError, errors.NftUnavailableError])
def test_a_replaced_table_gets_the_former_elements_where_the_new_ones_are_refused(
    error: type[errors.VipError],
) -> None:
    nft = Nft()
    made = nft.firewall_writer()
    made.sync(ONE)
    nft.transactions.clear()
    nft.error = error
    nft.refuses = lambda kind: kind == "rules" or (kind == "elements" and SECOND in nft.batches[-1])

    with pytest.raises(error):
        made.sync(TWO)

    assert nft.transactions[-2:] == ["elements", "elements"]
    assert FIRST in nft.batches[-1]
    assert nftables.CLOSED_TABLE.encode() in nft.batches[-1]


def test_a_replaced_table_is_opened_without_elements_where_all_are_refused() -> None:
    nft = Nft()
    made = nft.firewall_writer()
    made.sync(ONE)
    nft.refuses = lambda kind: kind == "rules" or (kind == "elements" and nft.batches[-1] != OPENING)

    with pytest.raises(errors.RulesetRefusedError):
        made.sync(TWO)

    assert nft.batches[-1] == OPENING


def test_refused_shares_hold_up_no_later_firewall_and_no_later_shares() -> None:
    nft = Nft()
    made = nft.firewall_writer()
    made.sync(ONE)
    nft.refuses = lambda kind: kind == "elements" and SECOND in nft.batches[-1]
    with pytest.raises(errors.RulesetRefusedError):
        made.sync(TWO)

    made.set_base(wall("10.113.0.0/22", "10.113.4.0/22"))
    assert "10.113.4.0/22" in nft.texts[-1]
    assert FIRST in nft.batches[-1]
    made.sync(ONE)
    assert made.render() is not None


def test_what_is_of_a_family_that_the_firewall_lacks_is_left_out_until_it_has_it() -> None:
    six = ipaddress.ip_address("fd00::5")
    mixed = VipTable(
        {front(1): back(1), Frontend(six, "tcp", 80): Backend((BackendAddress(six, 8080),))},
        frozenset([ExportedPort(six, "tcp", 8080), *exports_of(1)]),
        frozenset([six, ipaddress.ip_address("10.113.0.1")]),
    )

    four = elements.difference(table.EMPTY, mixed, versions=[4])

    assert set(four.added) == {"spread4_1", "exported4", "hairpin4"}
    assert set(elements.difference(table.EMPTY, mixed).added) > set(four.added)


def test_the_same_again_writes_nothing() -> None:
    nft = Nft()
    made = nft.firewall_writer()
    made.sync(ONE)
    made.sync(ONE)
    made.sync({"a": VipTable({front(1): back(1)})})
    made.set_base(wall())

    assert nft.transactions == ["elements"]


def test_other_blocks_of_the_cluster_are_rules_alone() -> None:
    nft = Nft()
    made = nft.firewall_writer()
    made.sync(ONE)
    nft.transactions.clear()

    made.set_base(wall("10.113.0.0/22", "10.113.4.0/22"))

    assert nft.transactions == ["rules", "elements"]
    assert "10.113.4.0/22" in nft.texts[-1]
    assert ipaddress.ip_address("10.113.0.1").packed not in nft.batches[-1]
    whole = made.render()
    assert whole is not None
    assert "10.113.4.0/22" in whole.rules
    assert ipaddress.ip_address("10.113.0.1").packed in whole.elements.content


def test_flows_that_couldnt_be_freed_are_tried_again() -> None:
    nft = Nft()
    made = nft.firewall_writer()
    old = {"a": VipTable({front(1, "udp"): back(1, 2)})}
    new = {"a": VipTable({front(1, "udp"): back(2)})}
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
