"""Which clusters' endpoints get traffic: both readings of one rule, asked side by side.

This cluster is c1; c2 and c3 are others.
"""

from __future__ import annotations

import pytest

from fleetboard.model import fleet, meta, names, reach


def make_peer(cluster: str, *, reachable: bool | None = True) -> fleet.Peer:
    health = None if reachable is None else fleet.PeerHealth(reachable=reachable)
    return fleet.Peer(
        metadata=meta.ObjectMeta(name=cluster),
        spec=fleet.PeerSpec(cluster=cluster),
        status=fleet.PeerStatus(health=health),
    )


def make_node(*, epoch: int | None, hub_reachable: bool = True) -> fleet.FleetNode:
    leading = None if epoch is None else fleet.Leading(epoch=epoch, hub_reachable=hub_reachable)
    return fleet.FleetNode(status=fleet.FleetNodeStatus(leading=leading))


# unreachable clusters, isolated, clusters with endpoints: names lead to, addresses lead to
WITHDRAWALS = [
    ("", False, "c1 c2 c3", "c1 c2 c3", "c1 c2 c3"),
    ("", False, "c2 c3", "c2 c3", "c2 c3"),
    # Another cluster is unreachable.
    ("c2", False, "c1 c2 c3", "c1 c3", "c1 c3"),
    ("c2", False, "c2", "", ""),
    ("c2 c3", False, "c2 c3", "", ""),
    # The hub can't reach this cluster: its own endpoints stay; without any, names stay and addresses reject.
    ("c1", False, "c1 c2 c3", "c1", "c1"),
    ("c1", False, "c2 c3", "c2 c3", ""),
    ("c1 c2", False, "c2 c3", "c3", ""),
    ("c1 c2", False, "c1 c2 c3", "c1", "c1"),
    # This cluster's own probe gets no answer: the same, whatever the hub says.
    ("", True, "c1 c2 c3", "c1", "c1"),
    ("", True, "c2 c3", "c2 c3", ""),
    ("c2", True, "c2 c3", "c3", ""),
    ("c2", True, "c2", "", ""),
    # A service without endpoints.
    ("", False, "", "", ""),
    ("c1", True, "", "", ""),
]


@pytest.mark.parametrize(("unreachable", "isolated", "clusters", "named", "led_to"), WITHDRAWALS)
def test_names_stay_where_addresses_reject(
    unreachable: str, isolated: bool, clusters: str, named: str, led_to: str
) -> None:
    dead = unreachable.split()
    peers = [make_peer(cluster, reachable=cluster not in dead) for cluster in ("c1", "c2", "c3", names.HUB)]
    seen = reach.read(peers, own=["c1"], isolated=isolated)

    assert seen.for_names(clusters.split()) == set(named.split())
    assert seen.for_addresses(clusters.split()) == set(led_to.split())


@pytest.mark.parametrize(("reachable", "expected"), [(None, True), (True, True), (False, False)])
def test_a_peer_that_was_never_probed_counts_as_reachable(reachable: bool | None, expected: bool) -> None:
    assert make_peer("c2", reachable=reachable).is_reachable is expected


def test_the_hubs_own_health_withdraws_nothing() -> None:
    assert reach.read([make_peer(names.HUB, reachable=False)], own=["c1"]) == reach.Reach(own=frozenset({"c1"}))


@pytest.mark.parametrize(
    ("nodes", "isolated"),
    [
        ([], False),
        ([make_node(epoch=None)], False),
        ([make_node(epoch=3, hub_reachable=False)], True),
        ([make_node(epoch=3, hub_reachable=False), make_node(epoch=4)], False),
        ([make_node(epoch=3), make_node(epoch=4, hub_reachable=False), make_node(epoch=None)], True),
    ],
)
def test_the_latest_leader_says_whether_the_cluster_is_isolated(nodes: list[fleet.FleetNode], isolated: bool) -> None:
    assert reach.is_isolated(nodes) is isolated
