"""Whatever is wrong with one object, the firewall is in force, and corrections take effect."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import cast

import pytest

from cnf.agent.caches import Caches
from cnf.agent.wakes import AgentSource, WorkQueues
from cnf.controllers.services import PendingChanges, ServiceController
from cnf.vip import errors, nftables, transaction, writer
from fleetboard.model import addresses, core, fleet, meta, names

GOOD, BAD = bytes((10, 113, 4, 7)), bytes((10, 113, 4, 66))


@dataclasses.dataclass
class FakeCaches:
    """The caches of one node of cluster c1."""

    slices: dict[str, core.EndpointSlice] = dataclasses.field(default_factory=dict)
    blocks: dict[str, list[str]] = dataclasses.field(
        default_factory=lambda: {names.HUB: ["10.112.255.0/24"], "c1": ["10.113.4.0/22"], "c2": ["10.114.0.0/22"]}
    )
    zone: str = ""
    service_count: int = 0
    pending: PendingChanges = dataclasses.field(default_factory=PendingChanges)

    @property
    def work_queues(self) -> WorkQueues:
        return WorkQueues(self.pending.recorders)

    def peer(self, cluster: str) -> fleet.Peer:
        status = fleet.PeerStatus(
            cluster_cidrs=self.blocks[cluster], fleet_cidrs=["10.112.0.0/12"], vip_cidrs=["10.112.0.0/16"]
        )
        return fleet.Peer(metadata=meta.ObjectMeta(name=cluster), spec=fleet.PeerSpec(cluster=cluster), status=status)

    @property
    def peers(self) -> list[fleet.Peer]:
        return [self.peer(cluster) for cluster in self.blocks]

    @property
    def nodes(self) -> list[fleet.FleetNode]:
        return [self.node("n1")]

    def node(self, name: str) -> fleet.FleetNode:
        return fleet.FleetNode(metadata=meta.ObjectMeta(name=name), spec=fleet.FleetNodeSpec(blocks=["10.113.4.0/26"]))

    def slice(self, key: str) -> core.EndpointSlice | None:
        return self.slices.get(key)


class FakeNftables:
    """Takes all but elements with ``refused`` in them, and while it is ``lame`` no rules."""

    def __init__(self) -> None:
        self.rules: list[str] = []
        self.elements: list[bytes] = []
        self.lame = False
        self.refused = BAD

    def apply(self, text: str) -> None:
        if self.lame:
            raise errors.RulesetRefusedError("refused")
        self.rules.append(text)

    def write(self, batch: transaction.Batch) -> None:
        if self.refused in batch.content:
            raise errors.RulesetRefusedError("refused")
        self.elements.append(batch.content)


def slice_of(target: bytes) -> core.EndpointSlice:
    name = f"web{target[-1]}"
    labels = {
        names.LABEL_SERVICE_NAME: name,
        names.LABEL_SOURCE_CLUSTER: "c1",
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
    }
    return core.EndpointSlice(
        metadata=meta.ObjectMeta(name=name, namespace="default", labels=labels),
        endpoints=[core.Endpoint(addresses=[str(ipaddress.ip_address(target))])],
        ports=[core.EndpointPort(name="http", port=8080)],
    )


@pytest.fixture
def fake_caches() -> FakeCaches:
    return FakeCaches()


@pytest.fixture
def kernel() -> FakeNftables:
    return FakeNftables()


@pytest.fixture
def services(fake_caches: FakeCaches, kernel: FakeNftables) -> ServiceController:
    firewall_writer = writer.FirewallWriter(
        apply=kernel.apply, write=kernel.write, evict=lambda _answering, _ranges: 0, serving=lambda: None
    )
    firewall_writer.sync({})
    return ServiceController(
        node="n1",
        cluster="c1",
        caches=cast("Caches", fake_caches),
        pending=fake_caches.pending,
        firewall_writer=firewall_writer,
        isolated=lambda: False,
    )


def show(fake_caches: FakeCaches, *targets: bytes) -> None:
    before, fake_caches.slices = fake_caches.slices, {f"web{target[-1]}": slice_of(target) for target in targets}
    for key in before.keys() | fake_caches.slices.keys():
        fake_caches.work_queues.wake(AgentSource.ENDPOINTS, key)


def test_endpoints_that_are_refused_are_over_with_their_deletion(
    services: ServiceController, fake_caches: FakeCaches, kernel: FakeNftables
) -> None:
    services.reconcile("all")
    show(fake_caches, GOOD, BAD)
    for _ in range(2):
        with pytest.raises(errors.RulesetRefusedError):
            services.reconcile("all")

    show(fake_caches, GOOD)
    services.reconcile("all")

    assert GOOD in kernel.elements[-1]


def test_refused_endpoints_hold_up_no_firewall(
    services: ServiceController, fake_caches: FakeCaches, kernel: FakeNftables
) -> None:
    services.reconcile("all")
    show(fake_caches, BAD)
    fake_caches.blocks["c1"].append("10.113.8.0/22")
    fake_caches.work_queues.wake(AgentSource.MESH)

    with pytest.raises(errors.RulesetRefusedError):
        services.reconcile("all")

    assert "10.113.8.0/22" in kernel.rules[-1]
    assert nftables.CLOSED_TABLE.encode() in kernel.elements[-1]


def test_fewer_endpoints_are_taken_up_though_the_former_ones_are_refused_first(
    services: ServiceController, fake_caches: FakeCaches, kernel: FakeNftables
) -> None:
    """The kernel may have no memory for as many as there were."""
    show(fake_caches, GOOD)
    services.reconcile("all")
    fake_caches.blocks["c1"].append("10.113.8.0/22")
    fake_caches.work_queues.wake(AgentSource.MESH)
    kernel.lame = True
    with pytest.raises(errors.RulesetRefusedError):
        services.reconcile("all")
    kernel.lame, kernel.refused = False, GOOD

    show(fake_caches)
    services.reconcile("all")

    assert GOOD not in kernel.elements[-1]


def test_our_malformed_block_is_reported_until_it_is_mended(
    services: ServiceController, fake_caches: FakeCaches, kernel: FakeNftables
) -> None:
    services.reconcile("all")
    fake_caches.blocks["c1"] = ["10.113.4.1/22"]
    fake_caches.work_queues.wake(AgentSource.MESH)
    for _ in range(2):
        with pytest.raises(addresses.AddressRefusedError):
            services.reconcile("all")

    fake_caches.blocks["c1"] = ["10.113.4.0/22", "10.113.8.0/22"]
    services.reconcile("all")

    assert "10.113.8.0/22" in kernel.rules[-1]


def test_a_malformed_block_of_another_cluster_holds_nothing_up(
    services: ServiceController, fake_caches: FakeCaches, kernel: FakeNftables, caplog: pytest.LogCaptureFixture
) -> None:
    fake_caches.blocks["c2"] = ["ten"]
    show(fake_caches, GOOD)

    services.reconcile("all")

    assert GOOD in kernel.elements[-1]
    assert [record.__dict__["clusters"] for record in caplog.records] == [["c2"]]
