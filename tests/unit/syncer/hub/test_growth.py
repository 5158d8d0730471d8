"""A cluster that fills gets a further block from the hub, by its report, before the last node block is gone."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator

import msgspec
import pytest
from fake_api import FakeApi
from hub_objects import make_report

from cnf.controllers.blocks import plan
from fleetboard.kube import events
from fleetboard.model import addresses, fleet, meta, names
from syncer.hub.members import MemberController
from syncer.hub.view import View
from syncer.hub.wakes import WORK_BY_SOURCE, HubBus, HubWork
from syncer.member.report import plan as report_plan
from syncer.rules.clusterset_settings import ClustersetSettings

NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
CLUSTERSET = ClustersetSettings("default", (addresses.parse_fleet_cidr("10.112.0.0/12"),), 1360)


class Hub:
    """A hub that leads, and what it knows."""

    def __init__(self, api: FakeApi) -> None:
        self.api, self.client = api, api.client()
        self.changed = threading.Event()

        def hear(_key: str) -> None:
            self.changed.set()

        bus = HubBus(WORK_BY_SOURCE)
        for work in HubWork:
            bus.connect(work, hear)
        self.view = View(self.client, CLUSTERSET, bus, now=lambda: NOW)
        self.member_controller = MemberController(self.view, recorder=events.Recorder(self.client, "syncer-hub"))
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=one.run, args=(self.stop,)) for one in self.view.reflectors.values()]
        for thread in self.threads:
            thread.start()
        assert all(event.wait(10) for event in self.view.synced)

    def take_in(self, cluster: str, wanted: int) -> list[str]:
        """Let the cluster report, and return the blocks it then has."""
        spec = make_report(cluster, uid="u1", blocks_wanted=wanted).spec
        self.changed.clear()
        self.api.put("peerreports", cluster, f"fleetboard-default-{cluster}", spec=msgspec.to_builtins(spec))
        for _ in range(200):
            known = self.view.report(cluster)
            if known is not None and known.spec.blocks_wanted == wanted:
                break
            self.changed.wait(0.05)
            self.changed.clear()
        self.member_controller.reconcile(cluster)
        return list(self.api.objects["peers", "fleetboard-default", cluster]["status"]["clusterCidrs"])


@pytest.fixture
def hub() -> Iterator[Hub]:
    with FakeApi() as api:
        for name in (names.HUB, "c1"):
            labels = {names.LABEL_CLUSTERSET: "default", names.LABEL_CLUSTER: name}
            peer = api.put("peers", name, "fleetboard-default", spec={"cluster": name})
            peer["metadata"]["labels"] = labels
        made = Hub(api)
        made.member_controller.reconcile(names.HUB)
        for _ in range(200):
            known = made.view.peer(names.HUB)
            if known is not None and known.status.cluster_cidrs:
                break
            made.changed.wait(0.05)
            made.changed.clear()
        yield made
        made.stop.set()
        api.cut()
        for thread in made.threads:
            thread.join(30)


def make_nodes(count: int) -> list[fleet.FleetNode]:
    return [
        fleet.FleetNode(metadata=meta.ObjectMeta(name=f"n{number:02}"), status=fleet.FleetNodeStatus(public_key="k"))
        for number in range(count)
    ]


def test_a_second_block_is_there_before_the_last_node_block_is_gone(hub: Hub) -> None:
    first = hub.take_in("c1", report_plan.blocks_wanted(make_nodes(14)))
    assert [addresses.parse_cidr(block, field="b").prefixlen for block in first] == [22]
    full = make_nodes(15)
    given = plan.plan_grants(full, [], [addresses.parse_cidr(first[0], field="b")], now=NOW)
    assert len(given.grants) == 15, "one node block is left when the cluster asks"
    both = hub.take_in("c1", report_plan.blocks_wanted(full))
    assert both[0] == first[0]
    assert [addresses.parse_cidr(block, field="b").prefixlen for block in both] == [22, 21]


def test_the_next_block_is_double_the_last_and_none_is_taken_back(hub: Hub) -> None:
    wanted = report_plan.blocks_wanted(make_nodes(47))
    grown = hub.take_in("c1", wanted)
    assert wanted == 3
    assert sum(1 << (26 - addresses.parse_cidr(block, field="b").prefixlen) for block in grown) == 16 + 32 + 64
    assert hub.take_in("c1", 1) == grown
