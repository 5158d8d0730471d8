"""Which members are called unreachable."""

from cnf.relay import health
from cnf.relay.health import Observation


def test_a_member_that_never_answered_is_left_out() -> None:
    reachability, _ = health.decide({"c1": Observation(alive=False, seen=0)}, now=100)
    assert reachability == {}


def test_a_member_that_was_alive_and_is_silent_for_a_second_is_unreachable() -> None:
    reachability, _ = health.decide({"c1": Observation(alive=False, seen=99), "c2": Observation(True, 100)}, now=100)
    assert reachability == {"c1": False, "c2": True}


def test_a_member_that_lost_some_probes_is_left_as_it_was() -> None:
    reachability, _ = health.decide({"c1": Observation(alive=False, seen=99.5)}, now=100)
    assert reachability == {}


def test_many_lost_at_once_mean_that_the_relay_is_cut_off() -> None:
    lost = {f"c{index}": Observation(alive=False, seen=98) for index in range(3)}
    reachability, cut_off = health.decide({**lost, "c9": Observation(True, 100)}, now=100)
    assert cut_off
    assert reachability == {"c9": True}


def test_a_fifth_of_a_large_fleet_may_be_lost() -> None:
    lost = {f"c{index}": Observation(alive=False, seen=98) for index in range(10)}
    rest = {f"d{index}": Observation(True, 100) for index in range(40)}
    reachability, cut_off = health.decide({**lost, **rest}, now=100)
    assert not cut_off
    assert [cluster for cluster, reachable in reachability.items() if not reachable] == list(lost)


def test_a_relay_that_stays_cut_off_withdraws_nobody_later_either() -> None:
    lost = {f"c{index}": Observation(alive=False, seen=98 + index / 10) for index in range(5)}
    for now in (108, 120, 4000):
        reachability, cut_off = health.decide(lost, now=now)
        assert cut_off
        assert reachability == {}


def test_members_lost_one_by_one_are_each_withdrawn() -> None:
    lost = {f"c{index}": Observation(alive=False, seen=100 + 20 * index) for index in range(5)}
    reachability, cut_off = health.decide(lost, now=300)
    assert not cut_off
    assert reachability == dict.fromkeys(lost, False)
