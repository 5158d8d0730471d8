"""The latency probe, as the agent's chart switches it on: each cluster shows how long its exports take to the other."""

from __future__ import annotations

import concurrent.futures
import re
from collections.abc import Iterator

import lab
import pytest

CHART = "manifests/charts/fleetboard-agent"
MEMBERS = {lab.C1: lab.C2, lab.C2: lab.C1}
OTHERS_METRIC = r'^fleetboard_export_probe_seconds_{part}\{{cluster="{other}"\}} (\S+)$'


def set_interval(seconds: int) -> None:
    """Set the chart's value in both clusters."""

    def upgrade(cluster: lab.Cluster) -> None:
        value = f"probe.intervalSeconds={seconds}"
        cluster.helm("upgrade", "fleetboard-agent", CHART, "-n", lab.SYSTEM, "--reuse-values", "--set", value)
        cluster.kubectl("-n", lab.SYSTEM, "rollout", "status", "deploy/syncer", "--timeout=120s", timeout_s=130)

    with concurrent.futures.ThreadPoolExecutor(len(MEMBERS)) as pool:
        for _ in pool.map(upgrade, MEMBERS):
            pass


@pytest.fixture
def probing() -> Iterator[None]:
    set_interval(5)
    try:
        yield
    finally:
        set_interval(0)


def shown(cluster: lab.Cluster, part: str) -> float:
    """Return the count or the sum of what a cluster's syncer shows of the other."""
    pods = cluster.list("pods", lab.SYSTEM, selector="app.kubernetes.io/name=syncer")
    pods = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and lab.is_ready(pod)]
    text = cluster.kubectl(
        "get", "--raw", f"/api/v1/namespaces/{lab.SYSTEM}/pods/{pods[-1]['metadata']['name']}:9464/proxy/metrics"
    )
    found = re.search(OTHERS_METRIC.format(part=part, other=MEMBERS[cluster].name), text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_each_cluster_shows_how_long_its_exports_take_to_the_other(probing: None) -> None:
    for cluster, other in MEMBERS.items():
        lab.eventually(lambda: shown(cluster, "count") >= 3, within_s=120)  # noqa: B023
        count = shown(cluster, "count")
        mean_s = shown(cluster, "sum") / count
        lab.record(f"latency probe: change of an export in {cluster.name} to the answer in {other.name}, mean", mean_s)
        assert 0 < mean_s < 5


def test_nothing_is_exported_while_it_is_off() -> None:
    for cluster in MEMBERS:
        lab.eventually(lambda: not cluster.list("serviceexports", lab.SYSTEM), within_s=60)  # noqa: B023
    lab.eventually(lambda: not [one for one in lab.HUB.list("fleetservices") if "fleet-probe" in str(one)], within_s=60)
