from __future__ import annotations

from ipaddress import ip_address

import pytest
from fake_clock import FakeClock

from cnf.tunnel.session import probe, wire
from fleetboard.model.addresses import Address

A, B = ip_address("10.113.4.0"), ip_address("10.113.8.0")


class Probed:
    """A prober with a clock under the test's control, and what it reported."""

    def __init__(self, *targets: Address) -> None:
        self.clock = FakeClock(100)
        self.changes: list[tuple[Address, bool]] = []
        self.lost: list[int] = []
        self.prober = probe.Prober(
            on_change=lambda address, alive: self.changes.append((address, alive)),
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
    assert world.changes == [(A, True)]
    for _ in range(3):
        world.step()
    assert world.alive(A) is True
    world.step()
    assert world.alive(A) is False
    assert world.changes == [(A, True), (A, False)]
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
    assert world.changes[-1] == (A, True)
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
