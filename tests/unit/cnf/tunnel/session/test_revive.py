from __future__ import annotations

from cnf.tunnel.session import revive


def due(revivals: revive.Revivals, *, lost: int = 5, age: float | None = None, now: float = 100.0) -> bool:
    return revive.is_due(revivals, lost=lost, handshake_age_s=age, now=now, jitter=lambda _low, _high: 1.0)


def test_the_relay_is_revived_after_five_losses_and_then_with_growing_pauses() -> None:
    assert not due(revive.Revivals(), lost=4)
    assert due(revive.Revivals())
    once = revive.record_revival(revive.Revivals(), now=100.0)
    assert not due(once, now=100.9)
    assert due(once, now=101.1)
    often = revive.Revivals(100.0, 50)
    assert not due(often, now=109.0)
    assert due(often, now=111.0)


def test_a_relay_that_answers_handshakes_but_no_probes_is_left_alone_for_a_while() -> None:
    once = revive.record_revival(revive.Revivals(), now=100.0)
    assert not due(once, age=2.0, now=105.0)
    assert due(once, age=2.0, now=116.0)
