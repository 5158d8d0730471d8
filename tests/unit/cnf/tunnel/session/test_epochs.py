from __future__ import annotations

from ipaddress import ip_address

import pytest

from cnf.tunnel.session import epochs, wire
from cnf.tunnel.session.epochs import LeaderEpoch
from cnf.tunnel.wireguard import key
from fleetboard.model.addresses import Address

A, B = ip_address("10.113.4.0"), ip_address("10.113.8.0")
KEY, OTHER = key.generate().public, key.generate().public


def make_highest_epochs() -> epochs.HighestEpochs:
    highest_epochs = epochs.HighestEpochs()
    highest_epochs.allow({"c1": {A: KEY, B: OTHER}, "c2": {ip_address("10.113.12.0"): OTHER}})
    return highest_epochs


def announce(
    highest_epochs: epochs.HighestEpochs, source: Address, epoch: int, public_key: str, cluster: str = "c1"
) -> epochs.Verdict:
    return highest_epochs.receive(wire.Announcement(7, cluster, epoch, public_key), source)


def test_a_higher_epoch_is_new_and_a_lower_one_is_answered_with_the_highest() -> None:
    highest_epochs = make_highest_epochs()
    assert announce(highest_epochs, A, 4, KEY).new_epoch == LeaderEpoch(4, KEY)
    assert announce(highest_epochs, B, 5, OTHER).new_epoch == LeaderEpoch(5, OTHER)
    late = announce(highest_epochs, A, 4, KEY)
    assert late == epochs.Verdict(wire.Ack(7, "c1", 5, accepted=False), None)
    assert highest_epochs.highest("c1") == LeaderEpoch(5, OTHER)


def test_an_announcement_sent_twice_is_accepted_twice_and_new_once() -> None:
    highest_epochs = make_highest_epochs()
    announce(highest_epochs, A, 4, KEY)
    assert announce(highest_epochs, A, 4, KEY) == epochs.Verdict(wire.Ack(7, "c1", 4, accepted=True), None)


def test_one_epoch_has_one_leader() -> None:
    highest_epochs = make_highest_epochs()
    announce(highest_epochs, A, 4, KEY)
    second = announce(highest_epochs, B, 4, OTHER)
    assert second.ack is not None
    assert not second.ack.accepted
    assert highest_epochs.highest("c1") == LeaderEpoch(4, KEY)


@pytest.mark.parametrize(
    ("source", "public_key", "cluster"),
    [(A, OTHER, "c1"), (A, KEY, "c2"), (ip_address("10.113.4.9"), KEY, "c1"), (A, KEY, "c9")],
    ids=["another node's key", "another cluster", "a pod's address", "no cluster"],
)
def test_nobody_speaks_for_another(source: Address, public_key: str, cluster: str) -> None:
    highest_epochs = make_highest_epochs()
    assert announce(highest_epochs, source, 9, public_key, cluster) == epochs.Verdict(None, None)
    assert highest_epochs.highest(cluster) is None


def test_an_epoch_read_elsewhere_raises_and_never_lowers() -> None:
    highest_epochs = make_highest_epochs()
    assert highest_epochs.observe("c1", LeaderEpoch(3, KEY))
    assert not highest_epochs.observe("c1", LeaderEpoch(2, OTHER))
    assert highest_epochs.highest("c1") == LeaderEpoch(3, KEY)
