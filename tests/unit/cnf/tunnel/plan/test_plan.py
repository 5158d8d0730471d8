from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from cnf.tunnel.plan import plan
from cnf.tunnel.plan.desired import DesiredPeer, DesiredRoute, DesiredTunnel, PeerEndpoint, RouteKind
from cnf.tunnel.plan.mesh import (
    Leadership,
    MemberSession,
    MeshNode,
    MeshRefusalReason,
    NodeIdentity,
    RelayIdentity,
    RelayMember,
    RelayPeer,
)
from cnf.tunnel.wireguard import key
from fleetboard.model.addresses import Network
from fleetboard.model.standbys import choose_standbys

FLEET: Network = ip_network("10.112.0.0/12")
BLOCK: Network = ip_network("10.113.4.0/22")
RELAY_ADDRESS = ip_address("10.113.0.0")
RELAY_KEY = key.generate().public
KEYS = {name: key.generate().public for name in ("n1", "n2", "n3", "n4", "x1", "x2")}
BLOCKS: dict[str, Network] = dict(zip(KEYS, BLOCK.subnets(new_prefix=26), strict=False))
RELAY = RelayPeer(RELAY_KEY, (PeerEndpoint("192.0.2.1", 31820),), (RELAY_ADDRESS,), (FLEET,), 1300)
RELAY_IDENTITY = RelayIdentity(RELAY_KEY, (RELAY_ADDRESS,), (FLEET,), 1300)


def make_node(name: str, *, public_key: str = "", blocks: tuple[Network, ...] = ()) -> MeshNode:
    return MeshNode(name, public_key or KEYS[name], PeerEndpoint(f"{name}.example", 31820), blocks or (BLOCKS[name],))


def make_identity(name: str) -> NodeIdentity:
    return NodeIdentity(name, KEYS[name], (BLOCKS[name],), (BLOCK,))


def plan_of(name: str, *, leader: str = "n1", nodes: tuple[str, ...] = ("n1", "n2", "n3")) -> DesiredTunnel:
    leadership = Leadership(leader, choose_standbys(leader, nodes), 1)
    return plan.plan_node(make_identity(name), [make_node(node) for node in nodes], RELAY, leadership).desired


def peer(desired: DesiredTunnel, public_key: str) -> DesiredPeer:
    found = desired.peer(public_key)
    assert found is not None
    return found


def make_member(cluster: str, blocks: str, *sessions: MemberSession, epoch: int = 1) -> RelayMember:
    return RelayMember(cluster, (ip_network(blocks),), sessions, epoch)


def make_session(name: str, address: str, *, leader: bool = False, public_key: str = "") -> MemberSession:
    return MemberSession(public_key or KEYS[name], (ip_address(address),), leader, name)


def test_the_leader_sends_the_fleet_to_the_relay_and_keeps_it_awake() -> None:
    desired = plan_of("n1")
    relay = peer(desired, RELAY_KEY)
    assert relay.allowed == {FLEET, ip_network("10.113.0.0/32")}
    assert (relay.endpoint, relay.keepalive_s) == (PeerEndpoint("192.0.2.1", 31820), 25)
    assert peer(desired, KEYS["n2"]) == DesiredPeer(
        KEYS["n2"], (PeerEndpoint("n2.example", 31820),), frozenset([BLOCKS["n2"]])
    )
    assert desired.mtu == 1300


def test_a_standby_reaches_the_relay_alone_by_its_own_session_and_the_fleet_by_the_leader() -> None:
    desired = plan_of("n2")
    assert peer(desired, RELAY_KEY).allowed == {ip_network("10.113.0.0/32")}
    assert peer(desired, KEYS["n1"]).allowed == {BLOCKS["n1"], FLEET}


def test_other_nodes_keep_no_session_with_the_relay() -> None:
    desired = plan_of("n4", nodes=("n1", "n2", "n3", "n4"))
    assert desired.peer(RELAY_KEY) is None
    assert peer(desired, KEYS["n1"]).allowed == {BLOCKS["n1"], FLEET}


def test_only_the_leader_answers_for_what_no_node_of_the_cluster_owns() -> None:
    source = ip_address("10.113.4.64")
    expected = (
        DesiredRoute(FLEET, RouteKind.TUNNEL, source),
        DesiredRoute(BLOCKS["n1"], RouteKind.TUNNEL, source),
        DesiredRoute(BLOCKS["n2"], RouteKind.UNREACHABLE),
        DesiredRoute(BLOCKS["n3"], RouteKind.TUNNEL, source),
    )
    assert plan_of("n2").routes == expected
    assert set(plan_of("n2", leader="n2").routes) - set(expected) == {DesiredRoute(BLOCK, RouteKind.UNREACHABLE)}


def test_without_a_leader_no_peer_has_the_fleet() -> None:
    desired = plan.plan_node(make_identity("n1"), [make_node("n2")], RELAY, None).desired
    assert all(FLEET not in peer.allowed for peer in desired.peers)


def test_before_the_relay_published_its_key_the_nodes_mesh_alone() -> None:
    relay = dataclasses.replace(RELAY, public_key="")
    desired = plan.plan_node(make_identity("n1"), [make_node("n2")], relay, Leadership("n1")).desired
    assert [peer.public_key for peer in desired.peers] == [KEYS["n2"]]


def test_a_lower_epoch_is_refused() -> None:
    current = Leadership("n2", epoch=5)
    assert plan.newer(current, Leadership("n1", epoch=4)) is current
    assert plan.newer(current, Leadership("n1", epoch=6)).leader == "n1"
    assert plan.newer(None, Leadership("n1", epoch=0)).leader == "n1"


def test_a_key_belongs_to_the_node_that_published_it_first() -> None:
    nodes = [make_node("n2"), make_node("n3", public_key=KEYS["n2"]), make_node("n4")]
    first = plan.plan_node(make_identity("n1"), nodes, RELAY, None)
    assert [(refusal.subject, refusal.reason) for refusal in first.refusals] == [("n3", MeshRefusalReason.KEY_CONFLICT)]
    assert peer(first.desired, KEYS["n2"]).allowed == {BLOCKS["n2"]}
    later = plan.plan_node(make_identity("n1"), list(reversed(nodes)), RELAY, None, key_owners=first.key_owners)
    assert later.desired == first.desired


def test_nobody_else_may_have_the_nodes_key_or_the_relays() -> None:
    nodes = [make_node("n2", public_key=KEYS["n1"]), make_node("n3", public_key=RELAY_KEY), make_node("n4")]
    made = plan.plan_node(make_identity("n1"), nodes, RELAY, Leadership("n1"))
    assert [refusal.subject for refusal in made.refusals] == ["n2", "n3"]
    assert [peer.public_key for peer in made.desired.peers] == sorted([KEYS["n4"], RELAY_KEY])


def test_blocks_of_another_node_or_outside_the_fleet_are_refused_and_the_rest_stays() -> None:
    stolen = make_node("n3", blocks=(BLOCKS["n2"], BLOCKS["n3"], ip_network("192.168.0.0/24")))
    made = plan.plan_node(make_identity("n1"), [make_node("n2"), stolen], RELAY, None)
    assert peer(made.desired, KEYS["n2"]).allowed == {BLOCKS["n2"]}
    assert peer(made.desired, KEYS["n3"]).allowed == {BLOCKS["n3"]}
    assert [refusal.reason for refusal in made.refusals] == [MeshRefusalReason.ADDRESS_CONFLICT] * 2


def test_the_relay_gives_a_cluster_to_its_leader_and_a_standby_its_own_address() -> None:
    leader, standby = make_session("n1", "10.113.4.0", leader=True), make_session("n2", "10.113.4.64")
    desired = plan.plan_relay(RELAY_IDENTITY, [make_member("c1", "10.113.4.0/22", leader, standby)]).desired
    assert peer(desired, KEYS["n1"]) == DesiredPeer(KEYS["n1"], (), frozenset([ip_network("10.113.4.0/32"), BLOCK]))
    assert peer(desired, KEYS["n2"]) == DesiredPeer(KEYS["n2"], (), frozenset([ip_network("10.113.4.64/32")]))
    assert desired.routes == (
        DesiredRoute(FLEET, RouteKind.UNREACHABLE),
        DesiredRoute(BLOCK, RouteKind.TUNNEL, RELAY_ADDRESS),
    )


def test_a_cluster_without_a_leader_is_unreachable_but_its_standbys_answer() -> None:
    member = make_member("c1", "10.113.4.0/22", make_session("n2", "10.113.4.64"))
    desired = plan.plan_relay(RELAY_IDENTITY, [member]).desired
    assert [route.destination for route in desired.routes] == [FLEET, ip_network("10.113.4.64/32")]


def test_a_member_cannot_take_an_address_of_another_or_of_the_relay() -> None:
    good = make_member("c1", "10.113.4.0/22", make_session("n1", "10.113.4.0", leader=True))
    thief = make_member(
        "c2", "10.113.8.0/22", make_session("x1", "10.113.4.0", leader=True), make_session("x2", "10.113.0.0")
    )
    made = plan.plan_relay(RELAY_IDENTITY, [good, thief])
    assert [peer.public_key for peer in made.desired.peers] == [KEYS["n1"]]
    assert [(refusal.subject, refusal.reason) for refusal in made.refusals] == [
        ("c2/x1", MeshRefusalReason.ADDRESS_CONFLICT),
        ("c2/x2", MeshRefusalReason.ADDRESS_CONFLICT),
    ]


def test_a_member_cannot_take_the_key_of_another() -> None:
    good = make_member("c2", "10.113.8.0/22", make_session("n1", "10.113.8.0", leader=True))
    first = plan.plan_relay(RELAY_IDENTITY, [good])
    thief = make_member("c1", "10.113.4.0/22", make_session("x1", "10.113.4.0", leader=True, public_key=KEYS["n1"]))
    made = plan.plan_relay(RELAY_IDENTITY, [thief, good], key_owners=first.key_owners)
    assert made.desired.peers == first.desired.peers
    assert [(refusal.subject, refusal.reason) for refusal in made.refusals] == [
        ("c1/x1", MeshRefusalReason.KEY_CONFLICT)
    ]


def test_only_sessions_that_the_plan_admitted_are_accepted() -> None:
    own = make_session("n1", "10.113.4.0", leader=True)
    foreign = make_session("n2", "10.113.8.0")
    outside = make_session("n3", "169.254.1.1")
    members = [make_member("c1", "10.113.4.0/22", own, foreign, outside), make_member("c2", "10.113.8.0/22")]
    admitted = plan.admitted_sessions(members, plan.plan_relay(RELAY_IDENTITY, members).desired)
    assert admitted == {"c1": [own], "c2": []}


def test_a_member_keeps_a_leader_and_two_standbys_at_most() -> None:
    names = list(KEYS)[:5]
    sessions = [make_session(name, str(BLOCKS[name][0]), leader=index == 4) for index, name in enumerate(names)]
    made = plan.plan_relay(RELAY_IDENTITY, [make_member("c1", "10.113.4.0/22", *sessions)])
    assert {peer.public_key for peer in made.desired.peers} == {KEYS[names[4]], KEYS[names[0]], KEYS[names[1]]}
    assert len(made.refusals) == 2


def test_of_two_sessions_that_claim_to_lead_the_first_does() -> None:
    sessions = [make_session(name, str(BLOCKS[name][0]), leader=True) for name in ("n1", "n2")]
    desired = plan.plan_relay(RELAY_IDENTITY, [make_member("c1", "10.113.4.0/22", *sessions)]).desired
    assert BLOCK in peer(desired, KEYS["n1"]).allowed
    assert BLOCK not in peer(desired, KEYS["n2"]).allowed


_node_names = st.sampled_from(sorted(KEYS))
_node_blocks = st.lists(st.sampled_from([*BLOCKS.values(), BLOCK, FLEET]), max_size=3).map(tuple)
_nodes = st.lists(
    st.builds(MeshNode, _node_names, st.sampled_from([*KEYS.values(), RELAY_KEY]), st.none(), _node_blocks),
    max_size=6,
)


@given(nodes=_nodes, leader=_node_names)
def test_whatever_nodes_say_every_prefix_has_one_peer_and_every_peer_is_new(nodes: list[MeshNode], leader: str) -> None:
    desired = plan.plan_node(make_identity("n1"), nodes, RELAY, Leadership(leader, ("n2",))).desired
    keys = [peer.public_key for peer in desired.peers]
    assert len(keys) == len(set(keys))
    assert KEYS["n1"] not in keys
    # Leadership alone gives the fleet CIDR: a node's block may not be as wide.
    prefixes = [prefix for peer in desired.peers for prefix in peer.allowed]
    assert len(prefixes) == len(set(prefixes))


@given(st.permutations(["n1", "n2", "n3", "n4"]), st.sampled_from(["n1", "n2", "n3", "n4"]))
def test_a_change_of_leader_only_moves_prefixes_between_peers_that_stay(order: list[str], new: str) -> None:
    nodes = tuple(order)
    for name in nodes:
        before, after = plan_of(name, leader=order[0], nodes=nodes), plan_of(name, leader=new, nodes=nodes)
        held = {prefix for peer in before.peers for prefix in peer.allowed}
        kept = {prefix for peer in after.peers for prefix in peer.allowed}
        # A node that stops being a standby loses its session with the relay, and no node loses anything else.
        assert held - kept <= {ip_network("10.113.0.0/32")}
