"""Which members the hub admits, and with what sentence it refuses."""

from __future__ import annotations

import msgspec
import pytest
from hub_objects import make_peer, make_report

from fleetboard.model import addresses, fleet, meta
from syncer.rules import admission
from syncer.rules.clusterset_settings import ClustersetSettings

CLUSTERSET = ClustersetSettings("default", (addresses.parse_fleet_cidr("10.112.0.0/12"),), 1360)


def test_a_first_report_is_admitted_and_pins_the_cluster() -> None:
    decision = admission.admit(make_peer(), make_report(blocks_wanted=2), CLUSTERSET)
    assert (decision.admitted, decision.reason, decision.cluster_uid, decision.blocks) == (True, "Admitted", "u1", 2)


def test_a_second_cluster_of_the_name_is_refused_and_the_first_keeps_working() -> None:
    decision = admission.admit(make_peer(uid="u1", admitted=True), make_report(uid="u2"), CLUSTERSET)
    assert decision.admitted
    assert decision.reason == "ClusterNameTaken"
    assert "u1 joined first" in decision.message
    assert decision.cluster_uid == "u1"
    assert not decision.accepted
    shown = admission.conditions(decision, stale_s=None)
    assert {one.type: (one.status, one.reason) for one in shown} == {
        "Admitted": ("True", "Admitted"),
        "Degraded": ("True", "ClusterNameTaken"),
        "Stale": ("False", "Reporting"),
    }


@pytest.mark.parametrize("network", ["10.112.0.0/12", "10.0.0.0/8", "10.127.255.0/24"])
def test_a_network_that_overlaps_the_fleet_is_refused(network: str) -> None:
    decision = admission.admit(make_peer(), make_report(networks=["10.96.0.0/16", network]), CLUSTERSET)
    assert (decision.admitted, decision.reason, decision.cluster_uid) == (False, "CIDROverlap", "")
    assert network in decision.message
    assert "10.112.0.0/12" in decision.message


@pytest.mark.parametrize(
    ("report", "part"),
    [
        (make_report(uid=""), "clusterUid"),
        (make_report(uid="u" * 65), "clusterUid"),
        (make_report(networks=["10.0.0.1/8"]), "10.0.0.1/8"),
        (make_report(networks=["nonsense"]), "nonsense"),
        (make_report(networks=["192.168.0.0/24"] * 65), "65 entries"),
        (make_report(blocks_wanted=0), "blocksWanted"),
        (make_report("c2"), "'c2'"),
    ],
)
def test_a_malformed_report_is_refused_naming_the_value(report: fleet.PeerReport, part: str) -> None:
    decision = admission.admit(make_peer(), report, CLUSTERSET)
    assert (decision.admitted, decision.reason) == (False, "MalformedReport")
    assert part in decision.message


def test_a_path_below_the_fleets_mtu_is_refused() -> None:
    decision = admission.admit(make_peer(), make_report(mtu=1359), CLUSTERSET)
    assert (decision.admitted, decision.reason) == (False, "PathTooSmall")
    assert "1359" in decision.message


def test_a_node_that_does_not_know_its_mtu_yet_is_not_refused() -> None:
    assert admission.admit(make_peer(), make_report(mtu=0), CLUSTERSET).admitted


@pytest.mark.parametrize("report", [make_report(mtu=1200), make_report(networks=["10.112.0.0/16"])])
def test_what_is_found_later_degrades_a_member_and_does_not_withdraw_it(report: fleet.PeerReport) -> None:
    decision = admission.admit(make_peer(uid="u1", admitted=True), report, CLUSTERSET)
    assert decision.admitted
    assert decision.accepted
    degraded = meta.find_condition(admission.conditions(decision, stale_s=None), "Degraded")
    assert degraded is not None
    assert (degraded.status, degraded.reason) == ("True", decision.reason)


def test_no_member_gets_more_blocks_than_its_share() -> None:
    decision = admission.admit(make_peer(), make_report(blocks_wanted=10**6), CLUSTERSET)
    assert decision.blocks == admission.MAX_BLOCKS


def test_a_member_that_has_not_reported_is_neither_admitted_nor_refused() -> None:
    (shown,) = admission.conditions(None, stale_s=None)
    assert (shown.type, shown.status, shown.reason) == ("Admitted", "Unknown", "NotJoined")


def test_a_late_heartbeat_is_shown_and_the_member_stays_admitted() -> None:
    decision = admission.admit(make_peer(uid="u1", admitted=True), make_report(), CLUSTERSET)
    by_type = {one.type: one for one in admission.conditions(decision, stale_s=60)}
    assert (by_type["Stale"].status, by_type["Admitted"].status) == ("True", "True")


def test_every_condition_is_complete() -> None:
    for decision in (None, admission.admit(make_peer(), make_report(mtu=1), CLUSTERSET)):
        for condition in admission.conditions(decision, stale_s=60):
            assert all(msgspec.structs.astuple(condition)[:4])
