"""What a node reports about itself, and how often."""

from __future__ import annotations

import dataclasses

from fake_api import FakeApi

from cnf.controllers import status as status_controller
from fleetboard.model import fleet, meta, names, resource

REPORT = status_controller.Report(
    public_key="k",
    endpoint="192.0.2.1:31820",
    mtu=1420,
    used=1,
    free=62,
    wanted=1,
    returned=[],
    held=[],
    unready_reason=None,
)


class Node:
    """A node whose report and time the test says."""

    def __init__(self, api: FakeApi) -> None:
        self.report, self.now = REPORT, 0.0
        self.attached: list[fleet.Attachment] = []
        self.former: fleet.FleetNode | None = None
        self.api, self.client = api, api.client()
        self.controller = status_controller.StatusController(
            self.client,
            namespace=names.NAMESPACE,
            node="n",
            version="1",
            report=lambda: self.report,
            attachments=lambda: self.attached,
            fleet_node=self.find,
            clock=lambda: self.now,
        )

    def find(self) -> fleet.FleetNode | None:
        return self.former or self.client.find(resource.FLEET_NODES, "n", names.NAMESPACE)

    def publish(self) -> bool:
        """Return whether it wrote."""
        before = self.api.version
        self.again_s = self.controller.reconcile_node("all")
        return self.api.version > before


def test_counts_alone_are_written_seldom_and_all_else_at_once() -> None:
    with FakeApi() as api:
        node = Node(api)
        assert node.publish()
        assert not node.publish()
        node.report = dataclasses.replace(REPORT, used=2, free=61)
        node.now = 10
        assert not node.publish()
        assert node.again_s == status_controller.COUNTS_S - 10
        node.report = dataclasses.replace(REPORT, used=3, free=60, wanted=2)
        assert node.publish()
        found = node.find()
        assert found is not None
        assert (found.status.addresses_used, found.status.blocks_wanted) == (3, 2)
        node.report = dataclasses.replace(node.report, used=4)
        assert not node.publish()
        node.now += status_controller.COUNTS_S
        assert node.publish()


def test_what_the_leader_sees_of_the_hub_is_written_at_once_and_only_while_it_leads() -> None:
    with FakeApi() as api:
        node = Node(api)
        node.report = dataclasses.replace(REPORT, leading=fleet.Leading(epoch=3))
        assert node.publish()
        node.report = dataclasses.replace(REPORT, leading=fleet.Leading(epoch=3, hub_reachable=False))
        assert node.publish()
        status = api.objects["fleetnodes", names.NAMESPACE, "n"]["status"]
        assert status["leading"] == {"epoch": 3, "hubReachable": False}
        node.report = REPORT
        assert node.publish()
        assert "leading" not in api.objects["fleetnodes", names.NAMESPACE, "n"]["status"]


def test_a_returned_block_is_shown_and_forgotten() -> None:
    with FakeApi() as api:
        node = Node(api)
        node.report = dataclasses.replace(REPORT, returned=["10.113.4.64/26"])
        node.publish()
        assert api.objects["fleetnodes", names.NAMESPACE, "n"]["status"]["blocksReturned"] == ["10.113.4.64/26"]
        node.report = REPORT
        assert node.publish()
        assert "blocksReturned" not in api.objects["fleetnodes", names.NAMESPACE, "n"]["status"]


def test_a_block_that_the_node_holds_and_its_fleetnode_lacks_is_shown_until_it_has_it() -> None:
    with FakeApi() as api:
        node = Node(api)
        node.report = dataclasses.replace(REPORT, held=["10.113.4.64/26", "10.113.4.0/26"])
        node.publish()
        found = node.find()
        assert found is not None
        assert found.status.blocks_missing == ["10.113.4.64/26", "10.113.4.0/26"]
        api.put("fleetnodes", "n", names.NAMESPACE, spec={"blocks": node.report.held}, status={"blocksMissing": ["x"]})
        assert node.publish()
        assert "blocksMissing" not in api.objects["fleetnodes", names.NAMESPACE, "n"]["status"]


def test_what_was_made_of_an_older_fleetnode_is_not_written() -> None:
    with FakeApi() as api:
        node = Node(api)
        node.publish()
        node.former = node.find()
        api.put("fleetnodes", "n", names.NAMESPACE, spec={"blocks": ["10.113.4.0/26"]})
        node.report = dataclasses.replace(REPORT, returned=["10.113.4.64/26"])
        assert not node.publish()
        assert node.again_s == status_controller.CHANGED_S
        node.former = None
        assert node.publish()


def test_an_exhausted_cluster_shows_as_a_condition_of_the_node() -> None:
    def condition(report: status_controller.Report) -> meta.Condition | None:
        status = status_controller.render_status(report, fleet.FleetNode(), version="1", now="2026-01-01T00:00:00Z")
        return meta.find_condition(status.conditions, "AddressesAvailable")

    full = condition(dataclasses.replace(REPORT, exhausted="the cluster is full"))
    room = condition(REPORT)
    assert full is not None
    assert room is not None
    assert (full.status, full.reason, full.message) == ("False", "ClusterBlockExhausted", "the cluster is full")
    assert room.status == "True"


def test_services_that_the_kernel_refuses_show_as_a_condition_of_the_node() -> None:
    with FakeApi() as api:
        node = Node(api)
        node.publish()
        refused = "shop.web (10.112.0.7:81/tcp: add to spread4_1: Invalid argument)"
        node.report = dataclasses.replace(REPORT, refused=refused)
        assert node.publish()
        condition = served(node)
        assert (condition.status, condition.reason) == ("False", "RefusedByKernel")
        assert condition.message == f"the node's kernel refuses {refused}"

        node.report = REPORT
        assert node.publish()
        assert served(node).status == "True"


def served(node: Node) -> meta.Condition:
    found = node.find()
    assert found is not None
    condition = meta.find_condition(found.status.conditions, "ServicesServed")
    assert condition is not None
    return condition
