"""Which node gets which block."""

import datetime
import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from cnf.controllers.blocks import plan
from fleetboard.model import addresses, fleet, meta

NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
CLUSTER = (ipaddress.ip_network("10.113.4.0/22"),)


def make_node(
    name: str,
    *,
    held: list[str] | None = None,
    wanted: int = 1,
    missing: list[str] | None = None,
    created: str = "2026-01-01T00:00:00Z",
) -> fleet.FleetNode:
    return fleet.FleetNode(
        metadata=meta.ObjectMeta(name=name, creation_timestamp=created),
        spec=fleet.FleetNodeSpec(blocks=held or []),
        status=fleet.FleetNodeStatus(public_key="k", blocks_wanted=wanted, blocks_missing=missing or []),
    )


def make_claim(block: str, owner: str, released: str = "") -> fleet.Claim:
    name = addresses.claim_name(ipaddress.ip_network(block))
    spec = fleet.ClaimSpec(cidr=block, purpose=plan.PURPOSE, owner=owner, released=released)
    return fleet.Claim(metadata=meta.ObjectMeta(name=name), spec=spec)


def test_every_node_gets_a_block_of_its_own() -> None:
    decision = plan.plan_grants([make_node("a"), make_node("b")], [], CLUSTER, now=NOW)
    assert [(grant.node, str(grant.block)) for grant in decision.grants] == [
        ("a", "10.113.4.0/26"),
        ("b", "10.113.4.64/26"),
    ]


def test_a_claim_that_the_node_does_not_show_yet_is_finished_first() -> None:
    claim = make_claim("10.113.4.128/26", "a")
    decision = plan.plan_grants([make_node("a")], [claim], CLUSTER, now=NOW)
    assert decision.grants == (plan.Grant("a", ipaddress.ip_network("10.113.4.128/26"), claim),)


def test_a_block_that_a_node_shows_is_not_given_away_though_its_claim_was_deleted() -> None:
    nodes = [make_node("a", held=["10.113.4.0/26"]), make_node("b")]
    [grant] = plan.plan_grants(nodes, [], CLUSTER, now=NOW).grants
    assert (grant.node, str(grant.block)) == ("b", "10.113.4.64/26")


def test_a_tombstone_is_taken_over_at_the_version_that_was_decided_on() -> None:
    tombstone = make_claim("10.113.4.0/26", "old", released="2026-11-01T00:00:00Z")
    [grant] = plan.plan_grants([make_node("new")], [tombstone], CLUSTER, now=NOW).grants
    assert grant.claim is tombstone


def test_a_released_block_rests_a_day_for_other_nodes_and_not_for_its_own() -> None:
    claims = [make_claim("10.113.4.0/26", "old", released="2026-11-22T12:00:00Z")]
    other = plan.plan_grants([make_node("new")], claims, CLUSTER, now=NOW)
    same = plan.plan_grants([make_node("old")], claims, CLUSTER, now=NOW)
    allocated = plan.plan_grants([make_node("new")], claims, CLUSTER, now=NOW + datetime.timedelta(hours=13))
    assert str(other.grants[0].block) == "10.113.4.64/26"
    assert str(same.grants[0].block) == "10.113.4.0/26"
    assert str(allocated.grants[0].block) == "10.113.4.0/26"


def test_an_exhausted_cluster_says_which_blocks_are_full() -> None:
    claims = [make_claim(f"10.113.4.{start}/26", "x") for start in (0, 64, 128)]
    claims.append(make_claim("10.113.4.192/26", "lives", released="2026-11-22T12:00:00Z"))
    small = (ipaddress.ip_network("10.113.4.0/24"),)
    decision = plan.plan_grants([make_node("a")], claims, small, now=NOW)
    assert decision.grants == ()
    assert "10.113.4.0/24" in decision.refused["a"]
    assert "nodes have 3 of 4 node blocks, 1 are quarantined for 24 h" in decision.refused["a"]


def test_a_node_created_again_gets_the_blocks_it_holds_in_its_order_once_it_has_reported_them() -> None:
    first, second = "10.113.4.64/26", "10.113.4.0/26"
    claims = [make_claim(first, "a"), make_claim(second, "a")]
    recreated = fleet.FleetNode(metadata=meta.ObjectMeta(name="a"))
    assert plan.plan_grants([recreated], claims, CLUSTER, now=NOW).grants == ()
    assert plan.plan_orphans([recreated], claims) == []
    reporting = make_node("a", missing=[first, second])
    assert [str(grant.block) for grant in plan.plan_grants([reporting], claims, CLUSTER, now=NOW).grants] == [
        first,
        second,
    ]
    assert plan.plan_orphans([make_node("a", held=[first], missing=[second])], claims) == []


def test_no_other_node_gets_a_block_that_one_says_it_holds() -> None:
    nodes = [make_node("a", held=["10.113.4.64/26"], missing=["10.113.4.0/26"]), make_node("b")]
    tombstone = make_claim("10.113.4.0/26", "old", released="2026-11-01T00:00:00Z")
    grants = plan.plan_grants(nodes, [tombstone], CLUSTER, now=NOW).grants
    assert [(grant.node, str(grant.block)) for grant in grants] == [("a", "10.113.4.0/26"), ("b", "10.113.4.128/26")]


def test_a_node_that_holds_what_is_not_the_clusters_asks_for_no_more_than_it_wants() -> None:
    node = make_node("a", held=["10.113.4.0/26"], missing=["10.99.0.0/26"])
    assert plan.plan_grants([node], [], CLUSTER, now=NOW) == plan.BlockPlan((), {})


def test_a_node_that_has_what_it_wants_gets_nothing() -> None:
    node = make_node("a", held=["10.113.4.0/26"])
    assert plan.plan_grants([node], [make_claim("10.113.4.0/26", "a")], CLUSTER, now=NOW).grants == ()


def test_claims_of_gone_nodes_are_released_once() -> None:
    claims = [make_claim("10.113.4.0/26", "gone"), make_claim("10.113.4.64/26", "here")]
    released = [make_claim("10.113.4.128/26", "long-gone", released="2026-11-01T00:00:00Z")]
    assert plan.plan_releases([*claims, *released], {"here"}) == claims[:1]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12))
def test_no_block_is_ever_granted_twice(wants: list[int]) -> None:
    nodes = {f"n{index}": wanted for index, wanted in enumerate(wants)}
    held: dict[str, list[str]] = {name: [] for name in nodes}
    claims: list[fleet.Claim] = []
    for _ in range(20):
        current = [make_node(name, held=held[name], wanted=wanted) for name, wanted in nodes.items()]
        decision = plan.plan_grants(current, claims, CLUSTER, now=NOW)
        for grant in decision.grants:
            held[grant.node].append(str(grant.block))
            claims.append(make_claim(str(grant.block), grant.node))
    given_out = [block for blocks_ in held.values() for block in blocks_]
    assert len(given_out) == len(set(given_out)) == min(16, sum(wants))
