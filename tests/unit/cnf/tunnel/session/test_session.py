"""When a node counts as isolated."""

from __future__ import annotations

import pytest

from cnf.tunnel.session import probe, session


@pytest.mark.parametrize(
    ("state", "interval_s", "expected"),
    [
        pytest.param(None, 0.2, False, id="nothing probed"),
        pytest.param(probe.ProbeTarget(lost=4), 0.2, False, id="less than a second"),
        pytest.param(probe.ProbeTarget(lost=5, alive=False), 0.2, True, id="a second with a session of its own"),
        pytest.param(probe.ProbeTarget(lost=2), 1.0, False, id="two probes through the leader"),
        pytest.param(probe.ProbeTarget(lost=3, alive=False), 1.0, True, id="three probes through the leader"),
        pytest.param(probe.ProbeTarget(lost=0, alive=True), 1.0, False, id="the relay answers"),
    ],
)
def test_a_node_is_isolated_after_a_second_and_three_probes_without_an_answer(
    state: probe.ProbeTarget | None, interval_s: float, expected: bool
) -> None:
    assert session.is_isolated(state, interval_s=interval_s) is expected
