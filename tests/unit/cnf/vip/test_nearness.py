"""Which of the endpoints that may answer are near enough to."""

from __future__ import annotations

import ipaddress

import pytest

from cnf.vip.nearness import Candidate, choose
from cnf.vip.table import BackendAddress


def candidate(
    number: int, *, at: str = "elsewhere", zone: bool = False, ready: bool = True, serving: bool = True
) -> Candidate:
    """One endpoint ``at`` this node, in this "cluster", or elsewhere."""
    return Candidate(
        cluster="c1" if at != "elsewhere" else "c2",
        name="http",
        protocol="tcp",
        target=BackendAddress(ipaddress.ip_address(f"10.113.0.{number}"), 8080),
        ready=ready,
        serving=serving,
        on_node=at == "node",
        in_zone=zone,
        in_cluster=at != "elsewhere",
    )


NODE = candidate(1, at="node", zone=True)
ZONE = candidate(2, at="cluster", zone=True)
CLUSTER = candidate(3, at="cluster")
FAR = candidate(4)
GONE_NODE = candidate(1, at="node", zone=True, ready=False, serving=False)
LEAVING_NODE = candidate(1, at="node", zone=True, ready=False)


@pytest.mark.parametrize(
    ("distribution", "behind", "expected"),
    [
        ("", [NODE, ZONE, CLUSTER, FAR], [NODE, ZONE, CLUSTER, FAR]),
        ("Sideways", [NODE, FAR], [NODE, FAR]),
        ("PreferSameNode", [NODE, ZONE, CLUSTER, FAR], [NODE]),
        ("PreferSameNode", [ZONE, CLUSTER, FAR], [ZONE]),
        ("PreferSameNode", [CLUSTER, FAR], [CLUSTER]),
        ("PreferSameNode", [FAR], [FAR]),
        ("PreferSameNode", [GONE_NODE, FAR], [FAR]),
        ("PreferSameNode", [LEAVING_NODE, FAR], [FAR]),
        ("PreferSameZone", [NODE, ZONE, CLUSTER, FAR], [NODE, ZONE]),
        ("PreferSameZone", [CLUSTER, FAR], [CLUSTER]),
        ("PreferClose", [NODE, ZONE, CLUSTER, FAR], [NODE, ZONE]),
        ("PreferClose", [CLUSTER, FAR], [CLUSTER]),
        ("PreferClose", [FAR], [FAR]),
    ],
)
def test_a_distribution_prefers_the_near_that_are_ready(
    distribution: str, behind: list[Candidate], expected: list[Candidate]
) -> None:
    assert choose(behind, distribution=distribution) == expected


def test_without_known_zones_the_node_alone_is_not_its_zone() -> None:
    here, sibling = candidate(1, at="node"), candidate(2, at="cluster")

    assert choose([here, sibling, FAR], distribution="PreferClose") == [here, sibling]


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ([NODE, ZONE, FAR], [NODE]),
        ([LEAVING_NODE, FAR], [LEAVING_NODE]),
        ([GONE_NODE, FAR], []),
        ([ZONE, FAR], []),
    ],
)
def test_the_policy_local_has_no_other_endpoints(behind: list[Candidate], expected: list[Candidate]) -> None:
    assert choose(behind, policy="Local", distribution="PreferClose") == expected


def test_the_policy_cluster_is_no_restriction() -> None:
    assert choose([NODE, FAR], policy="Cluster") == [NODE, FAR]
