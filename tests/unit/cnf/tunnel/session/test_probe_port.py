from __future__ import annotations

from ipaddress import ip_address

from cnf.tunnel.session import epochs, probe_port, wire
from cnf.tunnel.session.epochs import LeaderEpoch
from cnf.tunnel.wireguard import key

A, B = ip_address("10.113.4.0"), ip_address("10.113.8.0")
KEY, OTHER = key.generate().public, key.generate().public


def test_the_responder_answers_probes_and_counts_what_it_refuses() -> None:
    highest_epochs = epochs.HighestEpochs()
    highest_epochs.allow({"c1": {A: KEY, B: OTHER}})
    news: list[tuple[str, LeaderEpoch]] = []
    responder = probe_port.Responder(highest_epochs, on_new_leader=lambda cluster, new: news.append((cluster, new)))
    assert responder.answer(wire.Probe(3), A) == wire.Echo(3)
    assert responder.answer(wire.Announcement(1, "c1", 2, KEY), A) == wire.Ack(1, "c1", 2, accepted=True)
    assert responder.answer(wire.Announcement(1, "c1", 2, KEY), B) is None
    assert (news, responder.refused) == ([("c1", LeaderEpoch(2, KEY))], 1)
    assert probe_port.Responder().answer(wire.Announcement(1, "c1", 2, KEY), A) is None
