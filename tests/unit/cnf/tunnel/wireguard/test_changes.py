from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnf.tunnel import errors
from cnf.tunnel.plan.endpoints import SocketAddress
from cnf.tunnel.wireguard import kernel, key, uapi
from cnf.tunnel.wireguard.changes import (
    ActualDevice,
    ActualPeer,
    DesiredDevice,
    DeviceChanges,
    PeerUpdate,
    ResolvedPeer,
    diff,
)
from fleetboard.model.addresses import Network

Prefixes = frozenset[Network]
OWN = key.generate()
A, B, C = (key.generate().public for _ in range(3))
ONE: Network = ip_network("10.113.4.0/26")
TWO: Network = ip_network("10.112.0.0/12")
HOME, AWAY = SocketAddress(ip_address("192.0.2.1"), 31820), SocketAddress(ip_address("2001:db8::1"), 9)


def target(**peers: ResolvedPeer) -> DesiredDevice:
    return DesiredDevice(OWN.base64, 31820, {{"a": A, "b": B, "c": C}[name]: peer for name, peer in peers.items()})


def actual(**peers: ActualPeer) -> ActualDevice:
    return ActualDevice(OWN.base64, 31820, {{"a": A, "b": B, "c": C}[name]: peer for name, peer in peers.items()})


def compare(
    desired: DesiredDevice, there: ActualDevice, *, written: SocketAddress | None = None, now: float = 1000.0
) -> DeviceChanges:
    return diff(desired, there, written={A: written} if written else {}, now=now)


def test_nothing_is_written_when_all_is_as_wanted() -> None:
    desired = target(a=ResolvedPeer(HOME, frozenset([ONE]), 25))
    there = actual(a=ActualPeer(HOME, frozenset([ONE]), 25, 999.0, 5, 6))
    assert not compare(desired, there)


def test_a_new_device_gets_key_port_and_peers() -> None:
    changes = compare(target(a=ResolvedPeer(HOME, frozenset([ONE]), 25)), ActualDevice("", 0, {}))
    assert changes == DeviceChanges(OWN.base64, 31820, (PeerUpdate(A, HOME, 25, frozenset([ONE])),))


def test_a_peer_without_anything_to_say_is_still_made() -> None:
    assert compare(target(a=ResolvedPeer(None, frozenset())), actual()).updates == (PeerUpdate(A),)


def test_a_prefix_moves_by_being_added_to_the_gaining_peer_alone() -> None:
    desired = target(a=ResolvedPeer(None, frozenset([ONE])), b=ResolvedPeer(None, frozenset([TWO])))
    there = actual(a=ActualPeer(None, frozenset([ONE, TWO])), b=ActualPeer())
    assert compare(desired, there) == DeviceChanges(updates=(PeerUpdate(B, add=frozenset([TWO])),))


def test_a_prefix_that_nobody_gains_is_dropped_without_a_rewrite_of_its_peer() -> None:
    changes = compare(target(a=ResolvedPeer(None, frozenset([ONE]))), actual(a=ActualPeer(None, frozenset([ONE, TWO]))))
    assert changes == DeviceChanges(drop=frozenset([TWO]))
    text = uapi.render(changes)
    assert "replace" not in text
    assert bytes_of(A) not in text
    assert text.index("allowed_ip=10.112.0.0/12") < text.index("remove=true")


def test_a_peer_that_is_not_wanted_goes_with_its_prefixes() -> None:
    assert compare(target(), actual(a=ActualPeer(None, frozenset([ONE])))) == DeviceChanges(remove=(A,))


def test_a_peer_that_may_roam_never_gets_an_endpoint() -> None:
    desired = target(a=ResolvedPeer(None, frozenset()))
    assert not compare(desired, actual(a=ActualPeer(AWAY)), written=HOME)


@pytest.mark.parametrize(
    ("there", "written", "handshake_at", "is_written"),
    [
        (None, None, 0.0, True),
        (HOME, None, 0.0, False),
        (AWAY, HOME, 950.0, False),
        (AWAY, None, 950.0, False),
        (AWAY, HOME, 100.0, True),
        (AWAY, AWAY, 950.0, True),
    ],
    ids=["none there", "the same", "roamed", "roamed before our restart", "roamed and dead", "ours changed"],
)
def test_an_endpoint_is_written_only_where_it_breaks_no_session(
    there: SocketAddress | None, written: SocketAddress | None, handshake_at: float, is_written: bool
) -> None:
    changes = compare(
        target(a=ResolvedPeer(HOME, frozenset())),
        actual(a=ActualPeer(there, handshake_at=handshake_at)),
        written=written,
    )
    assert [update.endpoint for update in changes.updates if update.endpoint] == ([HOME] if is_written else [])


@pytest.mark.parametrize(
    ("seen", "held_s", "written_s"),
    [(AWAY, 0, 25), (AWAY, 25, None), (HOME, 25, 0), (HOME, 0, None)],
    ids=["translated", "translated before", "no longer", "never"],
)
def test_a_peer_behind_a_translation_is_kept_alive(seen: SocketAddress, held_s: int, written_s: int | None) -> None:
    """A pod network that masquerades between nodes forgets a flow that is idle for two minutes."""
    changes = compare(
        target(a=ResolvedPeer(HOME, frozenset())), actual(a=ActualPeer(seen, keepalive_s=held_s, handshake_at=950.0))
    )
    assert [update.keepalive_s for update in changes.updates] == ([] if written_s is None else [written_s])


def test_keys_show_in_no_representation() -> None:
    assert OWN.base64 not in repr(OWN) + repr(target()) + repr(actual()) + repr(DeviceChanges(private_key=OWN.base64))


def bytes_of(public_key: str) -> str:
    return uapi.to_hex(public_key)


def test_a_set_operation_is_spelled_as_the_protocol_wants() -> None:
    changes = DeviceChanges(None, 31820, (PeerUpdate(A, AWAY, 25, frozenset([ONE])),), remove=(B,))
    assert uapi.render(changes) == (
        f"set=1\nlisten_port=31820\npublic_key={bytes_of(A)}\nendpoint=[2001:db8::1]:9\n"
        f"persistent_keepalive_interval=25\nallowed_ip=10.113.4.0/26\npublic_key={bytes_of(B)}\nremove=true\n\n"
    )


def test_an_answer_is_read_peer_by_peer() -> None:
    lines = [
        ("private_key", bytes_of(OWN.base64)),
        ("listen_port", "31820"),
        ("public_key", bytes_of(A)),
        ("endpoint", "[2001:db8::1]:9"),
        ("last_handshake_time_sec", "7"),
        ("last_handshake_time_nsec", "500000000"),
        ("tx_bytes", "6"),
        ("rx_bytes", "5"),
        ("persistent_keepalive_interval", "25"),
        ("allowed_ip", "10.113.4.0/26"),
        ("public_key", bytes_of(B)),
    ]
    assert uapi.parse(lines) == actual(a=ActualPeer(AWAY, frozenset([ONE]), 25, 7.5, 5, 6), b=ActualPeer())


def test_a_malformed_answer_is_one_of_our_errors() -> None:
    with pytest.raises(errors.BackendError, match="malformed"):
        uapi.parse([("listen_port", "many")])


def test_the_kernel_gets_one_message_a_peer_and_never_a_replacement() -> None:
    changes = DeviceChanges(OWN.base64, 31820, (PeerUpdate(A, HOME, 25, frozenset([ONE])),), frozenset([TWO]), (B,))
    device, update, pass_on, drop, remove = kernel.messages(changes)
    assert device == {"private_key": OWN.base64, "listen_port": 31820}
    assert update["peer"] == {
        "public_key": A,
        "endpoint_addr": "192.0.2.1",
        "endpoint_port": 31820,
        "persistent_keepalive": 25,
        "allowed_ips": [str(ONE)],
    }
    passing = pass_on["peer"]["public_key"]
    assert pass_on["peer"] == {"public_key": passing, "allowed_ips": [str(TWO)]}
    assert drop["peer"] == {"public_key": passing, "remove": True}
    assert remove["peer"] == {"public_key": B, "remove": True}
    assert passing not in (A, B)


def test_many_prefixes_go_to_the_kernel_in_several_messages() -> None:
    many = Prefixes(ip_network("10.0.0.0/8").subnets(new_prefix=19))
    sent = list(kernel.messages(DeviceChanges(updates=(PeerUpdate(A, HOME, add=many),))))
    assert sum(len(message["peer"]["allowed_ips"]) for message in sent) == len(many)
    assert all(len(message["peer"]["allowed_ips"]) <= kernel.PREFIXES_A_MESSAGE for message in sent)


_blocks: list[Network] = list(ip_network("10.113.0.0/22").subnets(new_prefix=26))
_prefixes = st.frozensets(st.sampled_from(_blocks), max_size=6)
_endpoints = st.sampled_from([None, HOME, AWAY])
_handshakes = st.sampled_from([0.0, 950.0])
_keepalives = st.sampled_from([0, 25])
_names = st.sampled_from([A, B, C])


def _disjoint(peers: dict[str, Prefixes]) -> dict[str, Prefixes]:
    taken: set[Network] = set()
    found: dict[str, Prefixes] = {}
    for name, prefixes in peers.items():
        found[name] = prefixes - taken
        taken |= prefixes
    return found


_allotted = st.dictionaries(_names, _prefixes, max_size=3).map(_disjoint)


@given(there=_allotted, desired=_allotted, endpoint=_endpoints, handshake_at=_handshakes, keepalive_s=_keepalives)
def test_applying_the_difference_leaves_none(
    there: dict[str, Prefixes],
    desired: dict[str, Prefixes],
    endpoint: SocketAddress | None,
    handshake_at: float,
    keepalive_s: int,
) -> None:
    before = ActualDevice(
        "",
        0,
        {k: ActualPeer(endpoint, prefixes, 0, handshake_at) for k, prefixes in there.items()},
    )
    goal = DesiredDevice(
        OWN.base64,
        31820,
        {k: ResolvedPeer(HOME, prefixes, keepalive_s) for k, prefixes in desired.items()},
    )
    changes = diff(goal, before, written={}, now=1000.0)
    after = apply(before, changes)
    assert {k: peer.allowed for k, peer in after.peers.items()} == {k: peer.allowed for k, peer in goal.peers.items()}
    assert not diff(goal, after, written={}, now=1000.0)


def apply(device: ActualDevice, changes: DeviceChanges) -> ActualDevice:
    """WireGuard's own rules: a prefix has one peer, the one it was written to last."""
    peers = dict(device.peers)

    def give(public_key: str, prefixes: Prefixes) -> None:
        for other, peer in peers.items():
            peers[other] = dataclasses.replace(peer, allowed=peer.allowed - prefixes)
        mine = peers.get(public_key, ActualPeer())
        peers[public_key] = dataclasses.replace(mine, allowed=mine.allowed | prefixes)

    for update in changes.updates:
        give(update.public_key, update.add)
        peer = peers[update.public_key]
        peers[update.public_key] = dataclasses.replace(
            peer,
            endpoint=update.endpoint or peer.endpoint,
            keepalive_s=peer.keepalive_s if update.keepalive_s is None else update.keepalive_s,
        )
    give("passing", changes.drop)
    for public_key in ("passing", *changes.remove):
        peers.pop(public_key, None)
    return ActualDevice(changes.private_key or device.private_key, changes.port or device.port, peers)
