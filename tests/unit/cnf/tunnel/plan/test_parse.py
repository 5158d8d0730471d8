from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from cnf.tunnel import errors
from cnf.tunnel.plan import parse
from cnf.tunnel.plan.desired import DEFAULT_MTU, PeerEndpoint
from cnf.tunnel.plan.mesh import MemberSession, MeshRefusalReason, RelayMember
from cnf.tunnel.wireguard import key
from fleetboard.model import addresses, fleet, meta

KEY, OTHER = key.generate().public, key.generate().public


def make_node(
    name: str,
    *,
    public_key: str = KEY,
    block: str = "10.113.4.0/26",
    endpoint: str = "192.0.2.1:31820",
    created: str = "2026-01-01T00:00:00Z",
) -> fleet.FleetNode:
    return fleet.FleetNode(
        metadata=meta.ObjectMeta(name=name, creation_timestamp=created),
        spec=fleet.FleetNodeSpec(blocks=[block] if block else []),
        status=fleet.FleetNodeStatus(public_key=public_key, endpoint=endpoint),
    )


def make_peer(cluster: str, **status: object) -> fleet.Peer:
    filled: dict[str, object] = {"cluster_cidrs": ["10.113.4.0/22"], **status}
    return fleet.Peer(
        metadata=meta.ObjectMeta(name=cluster),
        spec=fleet.PeerSpec(cluster=cluster),
        status=fleet.PeerStatus(**filled),  # type: ignore[arg-type]
    )


def make_report(cluster: str, *nodes: fleet.ReportedNode, namespace: str = "", uid: str = "") -> fleet.PeerReport:
    return fleet.PeerReport(
        metadata=meta.ObjectMeta(name=cluster, namespace=namespace or f"fleetboard-default-{cluster}"),
        spec=fleet.PeerReportSpec(cluster=cluster, cluster_uid=uid, nodes=list(nodes), epoch=3),
    )


def reported(
    name: str, *, address: str = "10.113.4.0", public_key: str = KEY, leader: bool = True
) -> fleet.ReportedNode:
    return fleet.ReportedNode(name=name, public_key=public_key, addresses=[address], leader=leader, standby=not leader)


def test_malformed_nodes_are_left_out_with_a_sentence_and_the_others_stay() -> None:
    nodes = [
        make_node("good"),
        make_node("bad-key", public_key="nonsense"),
        make_node("bad-block", block="10.113.4.1/26"),
        make_node("bad-endpoint", endpoint="192.0.2.1"),
        make_node("not-ready", public_key=""),
        make_node("waiting", block=""),
    ]
    found, refusals = parse.parse_nodes(nodes)
    assert [node.name for node in found] == ["good"]
    assert {refusal.subject for refusal in refusals} == {"bad-key", "bad-block", "bad-endpoint"}
    assert all(refusal.reason is MeshRefusalReason.MALFORMED for refusal in refusals)


def test_nodes_come_oldest_first() -> None:
    nodes = [make_node("a", created="2026-02-01T00:00:00Z"), make_node("b")]
    assert [node.name for node in parse.parse_nodes(nodes)[0]] == ["b", "a"]


def test_a_node_without_a_block_has_no_identity_yet() -> None:
    assert parse.parse_identity("n1", KEY, make_node("n1", block=""), None) is None
    identity = parse.parse_identity("n1", KEY, make_node("n1"), make_peer("c1"))
    assert identity is not None
    assert identity.addresses == (ip_address("10.113.4.0"),)
    assert identity.cluster_blocks == (ip_network("10.113.4.0/22"),)


def test_the_relay_keeps_its_good_endpoints_beside_a_malformed_one() -> None:
    peer = make_peer("hub", fleet_cidrs=["10.112.0.0/12"], public_key=KEY, endpoints=["hub.example:31820", "oops"])
    relay, refusals = parse.parse_relay(peer)
    assert relay.endpoints == (PeerEndpoint("hub.example", 31820),)
    assert relay.mtu == DEFAULT_MTU
    assert len(refusals) == 1


def test_an_mtu_out_of_range_is_refused() -> None:
    with pytest.raises(errors.MtuRefusedError, match="mtu 100 is out of range"):
        parse.parse_relay(make_peer("hub", mtu=100))


def test_a_member_is_read_from_its_own_namespace_only() -> None:
    peers = [make_peer("c1"), make_peer("c2", cluster_cidrs=["10.113.8.0/22"])]
    forged = make_report("c2", reported("x"), namespace="fleetboard-default-c1")
    members, refusals = parse.parse_members("default", peers, [make_report("c1", reported("n1")), forged])
    session = MemberSession(KEY, (ip_address("10.113.4.0"),), leader=True, node="n1")
    assert members == [RelayMember("c1", (ip_network("10.113.4.0/22"),), (session,), 3)]
    assert refusals == []


def test_one_bad_member_or_node_harms_no_other() -> None:
    peers = [make_peer("c1"), make_peer("c2", cluster_cidrs=["nonsense"]), make_peer("c3")]
    reports = [
        make_report("c1", reported("n1"), reported("n2", address="nonsense", leader=False)),
        make_report("c2", reported("m1")),
        make_report("c3", reported("o1", public_key=OTHER)),
    ]
    members, refusals = parse.parse_members("default", peers, reports)
    assert [member.cluster for member in members] == ["c1", "c3"]
    assert {refusal.subject for refusal in refusals} == {"c1/n2", "c2"}


def test_an_address_with_a_zone_is_refused_for_a_zone_may_hold_any_text() -> None:
    nodes = [reported("n1", address="fd00:1::5%x\nprivate_key=0"), reported("n2", public_key=OTHER)]
    members, refused = parse.parse_members(
        "default", [make_peer("c1", cluster_cidrs=["10.113.4.0/22"])], [make_report("c1", *nodes)]
    )
    assert [[session.node for session in member.sessions] for member in members] == [["n2"]]
    assert [refusal.subject for refusal in refused] == ["c1/n1"]
    with pytest.raises(addresses.AddressRefusedError, match="zone"):
        addresses.parse_cidr("fd00:1::%x/64", field="blocks")


def test_a_refused_member_and_a_second_cluster_of_one_name_get_no_peer() -> None:
    condition = meta.Condition(type="Admitted", status="False", reason="Overlap", message="pod CIDR overlaps")
    peers = [make_peer("c1", conditions=[condition]), make_peer("c2", cluster_uid="first")]
    reports = [make_report("c1", reported("n1")), make_report("c2", reported("n1"), uid="second")]
    members, refusals = parse.parse_members("default", peers, reports)
    assert members == []
    assert [refusal.reason for refusal in refusals] == [
        MeshRefusalReason.NOT_ADMITTED,
        MeshRefusalReason.IDENTITY_CONFLICT,
    ]


def test_an_announced_higher_epoch_overrides_a_late_report() -> None:
    old, new = MemberSession(KEY, (), leader=True, node="a"), MemberSession(OTHER, (), leader=False, node="b")
    member = RelayMember("c1", (), (old, new), 3)
    moved = parse.with_leader(member, epoch=4, public_key=OTHER)
    assert moved.leader is not None
    assert moved.leader.node == "b"
    assert parse.with_leader(member, epoch=3, public_key=OTHER) == member
    assert parse.with_leader(member, epoch=9, public_key=key.generate().public) == member
