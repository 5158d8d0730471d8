"""What a cluster says of its nodes."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from fleetboard.model import addresses, core, fleet, meta
from syncer.member.report import plan as report_plan

NODE_BLOCKS = ["10.113.0.0/26", "10.113.0.64/26", "fd00:1::/64"]


def make_node(
    name: str, *, key: str = "k", blocks: Sequence[str] = (), wanted: int = 1, mtu: int = 1420
) -> fleet.FleetNode:
    return fleet.FleetNode(
        metadata=meta.ObjectMeta(name=name, namespace="fleetboard-system"),
        spec=fleet.FleetNodeSpec(blocks=list(blocks)),
        status=fleet.FleetNodeStatus(public_key=key, mtu=mtu, blocks_wanted=wanted),
    )


def make_lease(holder: str, transitions: int = 4) -> core.Lease:
    return core.Lease(spec=core.LeaseSpec(holder_identity=holder, lease_transitions=transitions))


def plan(*nodes: fleet.FleetNode, lease: core.Lease | None = None) -> fleet.PeerReportSpec:
    return report_plan.plan(nodes, lease, cluster="c1", cluster_uid="u", networks=[], version="1")


def test_leader_and_the_first_two_others_are_named() -> None:
    found = plan(*(make_node(name, blocks=["10.113.0.0/26"]) for name in ("d", "b", "c", "a")), lease=make_lease("b"))
    assert [(node.name, node.leader, node.standby) for node in found.nodes] == [
        ("a", False, True),
        ("b", True, False),
        ("c", False, True),
        ("d", False, False),
    ]
    assert found.epoch == 4


def test_a_node_without_a_key_can_not_be_reached_and_is_not_reported() -> None:
    found = plan(make_node("a", key=""), make_node("b"))
    assert [node.name for node in found.nodes] == ["b"]


def test_a_nodes_address_is_the_first_of_its_first_block_in_each_family() -> None:
    [node] = plan(make_node("a", blocks=NODE_BLOCKS)).nodes
    assert node.addresses == ["10.113.0.0", "fd00:1::"]


def test_a_node_that_is_not_of_the_mesh_is_no_standby() -> None:
    nodes = [make_node("a", key="", blocks=["10.113.0.0/26"]), make_node("b")]
    nodes += [make_node(name, blocks=[f"10.113.0.{64 * at}/26"]) for at, name in enumerate("cde", start=1)]
    found = plan(*nodes, lease=make_lease("c"))
    assert [node.name for node in found.nodes if node.standby] == ["d", "e"]


def test_a_node_with_a_malformed_block_is_left_out_and_the_others_are_reported() -> None:
    found = plan(make_node("a", blocks=["10.113.0.0/26"]), make_node("b", blocks=["nonsense"]))
    assert [node.name for node in found.nodes] == ["a"]


def test_blocks_of_nodes_that_went_today_count_for_the_blocks_the_cluster_needs() -> None:
    now = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
    released = ["2026-11-22T12:00:00Z"] * 15 + ["2026-11-21T12:00:00Z", "", "nonsense"]
    claims = [
        fleet.Claim(spec=fleet.ClaimSpec(cidr="10.113.0.0/26", purpose="node-block", owner="gone", released=when))
        for when in released
    ]
    assert report_plan.quarantined_blocks(claims, now=now) == 16
    nodes = [make_node("a"), make_node("b")]
    assert report_plan.blocks_wanted(nodes) == 1
    assert report_plan.blocks_wanted(nodes, quarantined=14 - report_plan.SPARE_NODE_BLOCKS) == 1
    assert report_plan.blocks_wanted(nodes, quarantined=15 - report_plan.SPARE_NODE_BLOCKS) == 2


def test_blocks_that_a_living_node_gave_back_do_not_count_for_anybody_may_have_them() -> None:
    now = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
    spec = fleet.ClaimSpec(
        cidr="10.113.0.0/26", purpose="node-block", owner="a", released="2026-11-23T00:00:00Z", returned=True
    )
    assert report_plan.quarantined_blocks([fleet.Claim(spec=spec)], now=now) == 0


def test_the_hub_is_asked_for_a_second_cluster_block_while_the_first_has_node_blocks_left() -> None:
    size = 16
    full = size - report_plan.SPARE_NODE_BLOCKS
    assert report_plan.blocks_wanted([make_node(f"n{number}") for number in range(full)]) == 1
    assert report_plan.blocks_wanted([make_node(f"n{number}") for number in range(full + 1)]) == 2


def test_a_leader_that_gave_its_lease_back_is_reported_until_another_took_it() -> None:
    held, given_back, taken = make_lease("a"), make_lease(""), make_lease("b", 5)
    assert report_plan.lease_to_report(None, held) is held
    assert report_plan.lease_to_report(held, given_back) is held
    assert report_plan.lease_to_report(held, None) is held
    assert report_plan.lease_to_report(held, taken) is taken
    assert report_plan.lease_to_report(None, given_back) is given_back


@given(st.lists(st.integers(0, 40), max_size=60))
def test_the_cluster_blocks_asked_for_hold_the_node_blocks_wanted_with_some_spare_and_one_fewer_would_not(
    wanted: list[int],
) -> None:
    count = report_plan.blocks_wanted([make_node(f"n{number}", wanted=one) for number, one in enumerate(wanted)])
    blocks = [f"10.{113 + number}.0.0/{22 - number}" for number in range(count)]
    room = [len(list(addresses.node_blocks([addresses.parse_cidr(block, field="b")]))) for block in blocks]
    assert sum(room) >= sum(wanted) + report_plan.SPARE_NODE_BLOCKS
    assert count == 1 or sum(room[:-1]) < sum(wanted) + report_plan.SPARE_NODE_BLOCKS


def test_blocks_that_a_node_already_holds_are_not_given_up() -> None:
    nodes = [make_node(f"n{number}", blocks=NODE_BLOCKS, wanted=1) for number in range(9)]
    assert report_plan.blocks_wanted(nodes) == 2


def test_an_unchanged_cluster_makes_an_unchanged_report() -> None:
    nodes = [make_node("a", blocks=NODE_BLOCKS), make_node("b")]
    assert plan(*nodes, lease=make_lease("a")) == plan(*reversed(nodes), lease=make_lease("a"))
