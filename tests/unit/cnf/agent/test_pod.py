"""The agent's pod starts its containers in order, and ends in time."""

from __future__ import annotations

import pathlib
import re

import pytest

from cnf.agent import settings

CHARTS = pathlib.Path(__file__).parents[4] / "manifests/charts"
POD = (CHARTS / "fleetboard-agent/templates/cnf.yaml").read_text()


def test_the_tunnel_starts_before_the_container_whose_hook_kubelet_waits_for() -> None:
    started = re.findall(r"^      - name: ([a-z]+)$", POD.partition("      containers:\n")[2], re.M)
    assert started == ["wireguard", "cnf"]
    assert "kubectl.kubernetes.io/default-container: cnf" in POD


@pytest.mark.parametrize("template", ["fleetboard-agent/templates/cnf.yaml", "fleetboard/templates/cnf-hub.yaml"])
def test_the_process_ends_before_kubelet_kills_it(template: str) -> None:
    (given_s,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", (CHARTS / template).read_text())
    assert int(given_s) > settings.GRACE_S
