from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnf.tunnel.plan import epochs
from cnf.tunnel.plan.epochs import LeaderClaim
from cnf.tunnel.session import probe, revive, wire
from cnf.tunnel.wireguard import key
from fleetboard.model.addresses import Address

A, B = ip_address("10.113.4.0"), ip_address("10.113.8.0")
KEY, OTHER = key.generate().public, key.generate().public

_nonces = st.integers(0, 2**63 - 1)
_messages = st.one_of(
    st.builds(wire.Probe, _nonces),
    st.builds(wire.Echo, _nonces),
    st.builds(wire.Announcement, _nonces, st.text(min_size=1, max_size=40), st.integers(0, 2**31 - 1), st.just(KEY)),
    st.builds(wire.Ack, _nonces, st.text(min_size=1, max_size=40), st.integers(0, 2**31 - 1), st.booleans()),
)


@given(_messages)
def test_messages_survive_the_wire(message: wire.Message) -> None:
    datagram = wire.encode(message)
    assert wire.decode(datagram) == message
    assert len(datagram) <= wire.LARGEST


@given(st.binary(max_size=80), st.booleans())
def test_no_datagram_breaks_the_decoder(garbage: bytes, ours: bool) -> None:
    try:
        decoded = wire.decode(wire.MAGIC * ours + garbage)
    except wire.MalformedError:
        return
    assert wire.decode(wire.encode(decoded)) == decoded


@pytest.mark.parametrize(
    "message",
    [
        wire.Probe(-1),
        wire.Announcement(1, "", 1, KEY),
        wire.Announcement(1, "c1", -1, KEY),
        wire.Announcement(1, "c1", 1, "short"),
        wire.Announcement(1, "c" * 64, 1, KEY),
    ],
)
def test_fields_out_of_range_are_malformed(message: wire.Message) -> None:
    with pytest.raises(wire.MalformedError):
        wire.decode(wire.encode(message))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Probed:
    """A prober with a clock in the test's hand, and what it told."""

    def __init__(self, *targets: Address) -> None:
        self.clock = Clock()
        self.told: list[tuple[Address, bool]] = []
        self.lost: list[int] = []
        self.prober = probe.Prober(
            on_change=lambda address, alive: self.told.append((address, alive)),
            on_lost=lambda _address, lost: self.lost.append(lost),
            clock=self.clock,
        )
        self.prober.set_targets(targets)

    def step(self) -> dict[Address, wire.Echo]:
        """One interval; return the echo that would answer each probe."""
        self.clock.now += probe.INTERVAL_S
        probes, _ = self.prober.due()
        decoded = {address: wire.decode(datagram) for address, datagram in probes}
        return {address: wire.Echo(message.nonce) for address, message in decoded.items()}

    def alive(self, address: Address) -> bool | None:
        state = self.prober.state(address)
        assert state is not None
        return state.alive


def test_a_target_lives_by_an_echo_and_dies_by_three_losses() -> None:
    world = Probed(A)
    assert world.prober.receive(world.step()[A], A)
    assert world.told == [(A, True)]
    for _ in range(3):
        world.step()
    assert world.alive(A) is True
    world.step()
    assert world.alive(A) is False
    assert world.told == [(A, True), (A, False)]
    assert world.lost == [1, 2, 3]


def test_an_echo_from_another_address_or_of_an_unknown_nonce_counts_for_nothing() -> None:
    world = Probed(A, B)
    echo = world.step()[A]
    assert not world.prober.receive(echo, B)
    assert not world.prober.receive(wire.Echo(echo.nonce ^ 1), A)
    assert world.prober.receive(echo, A)
    assert not world.prober.receive(echo, A)
    assert world.alive(B) is None


def test_a_way_with_a_round_trip_longer_than_the_interval_is_alive() -> None:
    world = Probed(A)
    under_way: list[wire.Echo] = []
    for _ in range(20):
        under_way.append(world.step()[A])
        if len(under_way) > 4:
            assert world.prober.receive(under_way.pop(0), A)
    assert world.alive(A) is True
    assert world.told[-1] == (A, True)
    state = world.prober.state(A)
    assert state is not None
    assert state.rtt_s == pytest.approx(0.8)


def test_targets_that_stay_keep_what_is_known_of_them() -> None:
    world = Probed(A)
    world.prober.receive(world.step()[A], A)
    world.prober.set_targets([A, B])
    assert (world.alive(A), world.alive(B)) == (True, None)
    world.prober.set_targets([B])
    assert world.prober.state(A) is None


def test_a_process_that_slept_does_not_send_a_burst() -> None:
    world = Probed(A)
    world.step()
    world.clock.now += 60
    sent, rest = world.prober.due()
    assert len(sent) == 1
    assert rest > 0
    assert world.lost == [1]


def make_leader_claims() -> epochs.LeaderClaims:
    leader_claims = epochs.LeaderClaims()
    leader_claims.allow({"c1": {A: KEY, B: OTHER}, "c2": {ip_address("10.113.12.0"): OTHER}})
    return leader_claims


def announce(
    leader_claims: epochs.LeaderClaims, source: Address, epoch: int, public_key: str, cluster: str = "c1"
) -> epochs.Verdict:
    return leader_claims.receive(wire.Announcement(7, cluster, epoch, public_key), source)


def test_a_higher_epoch_is_news_and_a_lower_one_is_told_the_highest() -> None:
    leader_claims = make_leader_claims()
    assert announce(leader_claims, A, 4, KEY).claim == LeaderClaim(4, KEY)
    assert announce(leader_claims, B, 5, OTHER).claim == LeaderClaim(5, OTHER)
    late = announce(leader_claims, A, 4, KEY)
    assert late == epochs.Verdict(wire.Ack(7, "c1", 5, accepted=False), None)
    assert leader_claims.claim("c1") == LeaderClaim(5, OTHER)


def test_an_announcement_said_twice_is_accepted_twice_and_news_once() -> None:
    leader_claims = make_leader_claims()
    announce(leader_claims, A, 4, KEY)
    assert announce(leader_claims, A, 4, KEY) == epochs.Verdict(wire.Ack(7, "c1", 4, accepted=True), None)


def test_one_epoch_has_one_leader() -> None:
    leader_claims = make_leader_claims()
    announce(leader_claims, A, 4, KEY)
    second = announce(leader_claims, B, 4, OTHER)
    assert second.ack is not None
    assert not second.ack.accepted
    assert leader_claims.claim("c1") == LeaderClaim(4, KEY)


@pytest.mark.parametrize(
    ("source", "public_key", "cluster"),
    [(A, OTHER, "c1"), (A, KEY, "c2"), (ip_address("10.113.4.9"), KEY, "c1"), (A, KEY, "c9")],
    ids=["another node's key", "another cluster", "a pod's address", "no cluster"],
)
def test_nobody_speaks_for_another(source: Address, public_key: str, cluster: str) -> None:
    leader_claims = make_leader_claims()
    assert announce(leader_claims, source, 9, public_key, cluster) == epochs.Verdict(None, None)
    assert leader_claims.claim(cluster) is None


def test_an_epoch_read_elsewhere_raises_and_never_lowers() -> None:
    leader_claims = make_leader_claims()
    assert leader_claims.observe("c1", LeaderClaim(3, KEY))
    assert not leader_claims.observe("c1", LeaderClaim(2, OTHER))
    assert leader_claims.claim("c1") == LeaderClaim(3, KEY)


def test_the_responder_answers_probes_and_counts_what_it_refuses() -> None:
    heard: list[tuple[str, LeaderClaim]] = []
    responder = probe.Responder(make_leader_claims(), on_claim=lambda cluster, claim: heard.append((cluster, claim)))
    assert responder.answer(wire.Probe(3), A) == wire.Echo(3)
    assert responder.answer(wire.Announcement(1, "c1", 2, KEY), A) == wire.Ack(1, "c1", 2, accepted=True)
    assert responder.answer(wire.Announcement(1, "c1", 2, KEY), B) is None
    assert (heard, responder.refused) == ([("c1", LeaderClaim(2, KEY))], 1)
    assert probe.Responder().answer(wire.Announcement(1, "c1", 2, KEY), A) is None


def due(revivals: revive.Revivals, *, lost: int = 5, age: float | None = None, now: float = 100.0) -> bool:
    return revive.is_due(revivals, lost=lost, handshake_age_s=age, now=now, jitter=lambda _low, _high: 1.0)


def test_the_hub_is_asked_anew_after_five_losses_and_then_with_growing_pauses() -> None:
    assert not due(revive.Revivals(), lost=4)
    assert due(revive.Revivals())
    once = revive.after(revive.Revivals(), now=100.0)
    assert not due(once, now=100.9)
    assert due(once, now=101.1)
    often = revive.Revivals(100.0, 50)
    assert not due(often, now=109.0)
    assert due(often, now=111.0)


def test_a_hub_that_answers_handshakes_but_no_probes_is_left_alone_for_a_while() -> None:
    once = revive.after(revive.Revivals(), now=100.0)
    assert not due(once, age=2.0, now=105.0)
    assert due(once, age=2.0, now=116.0)
