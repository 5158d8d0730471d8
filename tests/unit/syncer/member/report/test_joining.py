"""What a cluster shows of the hub's decision, and which networks it reports."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetboard.model import core, fleet, meta
from syncer.member.report import controller, networks, plan
from syncer.rules.admission import MAX_REPORTED_CIDRS


def make_peer(*conditions: meta.Condition) -> fleet.Peer:
    return fleet.Peer(spec=fleet.PeerSpec(cluster="c1"), status=fleet.PeerStatus(conditions=list(conditions)))


def make_node(pod_cidr: str, address: str) -> core.Node:
    return core.Node(
        spec=core.NodeSpec(pod_cidrs=[pod_cidr]),
        status=core.NodeStatus(
            addresses=[
                core.NodeAddress(type="InternalIP", address=address),
                core.NodeAddress(type="Hostname", address="n1"),
            ]
        ),
    )


@pytest.mark.parametrize(("status", "reason"), [("True", "Admitted"), ("False", "CIDROverlap")])
def test_the_hubs_decision_is_shown_word_for_word(status: str, reason: str) -> None:
    decision = meta.Condition(type="Admitted", status=status, reason=reason, message="m")
    shown = plan.joined(plan.admission(make_peer(decision)))
    assert (shown.type, shown.status, shown.reason, shown.message) == ("Joined", status, reason, "m")


@pytest.mark.parametrize("peer", [None, make_peer()])
def test_no_decision_is_shown_as_unknown(peer: fleet.Peer | None) -> None:
    assert plan.joined(plan.admission(peer)).status == "Unknown"


def test_a_name_that_no_object_can_have_is_recorded_under_another() -> None:
    assert (controller.reportable_name("c1"), controller.reportable_name("Bad_Name")) == ("c1", "unnamed")


def test_pod_service_and_node_networks_are_reported_and_joined_where_they_adjoin() -> None:
    nodes = [make_node("10.244.0.0/24", "172.18.0.2"), make_node("10.244.1.0/24", "172.18.0.3")]
    found = networks.collect(configured=[], service_cidrs=[ipaddress.ip_network("10.96.0.0/16")], nodes=nodes)
    assert [str(network) for network in found] == ["10.96.0.0/16", "10.244.0.0/23", "172.18.0.2/31"]


def test_networks_that_the_user_named_come_first() -> None:
    found = networks.collect(
        configured=[ipaddress.ip_network("10.244.0.0/16")],
        service_cidrs=[],
        nodes=[make_node("10.244.0.0/24", "10.1.1.1")],
    )
    assert [str(network) for network in found] == ["10.244.0.0/16", "10.1.1.1/32"]


@given(st.lists(st.ip_addresses(v=4), max_size=200))
def test_a_report_never_names_more_networks_than_the_hub_takes(found: list[ipaddress.IPv4Address]) -> None:
    nodes = [make_node("10.244.0.0/24", str(address)) for address in found]
    assert len(networks.collect(configured=[], service_cidrs=[], nodes=nodes)) <= MAX_REPORTED_CIDRS
