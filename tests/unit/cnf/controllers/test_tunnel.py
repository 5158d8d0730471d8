"""A restarted agent leaves the tunnel alone until it knows who leads."""

from __future__ import annotations

import dataclasses
from typing import cast

import pytest

from cnf.agent.caches import Caches
from cnf.agent.wakes import AgentWork, WorkQueues
from cnf.attach import errors
from cnf.attach.node_network import network
from cnf.controllers import tunnel as tunnel_controller
from cnf.tunnel.plan.desired import DesiredTunnel
from cnf.tunnel.session.session import Session, SessionRunner
from cnf.tunnel.wireguard import key
from cnf.tunnel.wireguard.tunnel import Tunnel
from fleetboard.kube import lease
from fleetboard.model import fleet, meta, names

OWN, HUB = key.generate().public, key.generate().public


@dataclasses.dataclass
class World:
    """What the controller sees and does; ``holder`` is the leader that the Lease names, empty before it was read."""

    holder: str = ""
    epoch: int = 3
    now: float = 100.0
    public_key: str = OWN
    desired: DesiredTunnel | None = None
    fault: Exception | None = None
    taken_up: list[network.NodeNetwork] = dataclasses.field(default_factory=list)
    work_queues: WorkQueues = dataclasses.field(default_factory=WorkQueues)
    nodes: tuple[fleet.FleetNode, ...] = (
        fleet.FleetNode(
            metadata=meta.ObjectMeta(name="n1"),
            spec=fleet.FleetNodeSpec(blocks=["10.113.4.0/26"]),
            status=fleet.FleetNodeStatus(public_key=OWN, endpoint="192.0.2.1:31820"),
        ),
    )

    def peer(self, cluster: str) -> fleet.Peer:
        status = fleet.PeerStatus(
            cluster_cidrs=["10.112.255.0/24" if cluster == names.HUB else "10.113.4.0/22"],
            fleet_cidrs=["10.112.0.0/12"],
            vip_cidrs=["10.112.0.0/16"],
            mtu=1360,
            public_key=HUB if cluster == names.HUB else "",
            endpoints=["198.51.100.1:31820"],
        )
        return fleet.Peer(metadata=meta.ObjectMeta(name=cluster), spec=fleet.PeerSpec(cluster=cluster), status=status)

    def node(self, _name: str) -> fleet.FleetNode:
        return self.nodes[0]

    def set_desired(self, desired: DesiredTunnel) -> None:
        self.desired = desired

    def update(self, _session: Session) -> None:
        pass

    def take_up(self, found: network.NodeNetwork) -> None:
        if self.fault is not None:
            raise self.fault
        self.taken_up.append(found)

    def make_controller(self, *, tunnel_exists: bool) -> tunnel_controller.TunnelController:
        return tunnel_controller.TunnelController(
            node="n1",
            cluster="c1",
            caches=cast("Caches", self),
            tunnel=cast("Tunnel", self),
            sessions=cast("SessionRunner", self),
            elector=cast("lease.Elector", self),
            set_network=self.take_up,
            work_queues=self.work_queues,
            tunnel_exists=tunnel_exists,
            clock=lambda: self.now,
        )


def carries(world: World) -> bool:
    return world.desired is not None and world.desired.peer(HUB) is not None


def test_a_standing_tunnel_is_left_alone_until_the_lease_was_read() -> None:
    world = World()
    controller = world.make_controller(tunnel_exists=True)
    assert controller.reconcile("all") == pytest.approx(tunnel_controller.UNKNOWN_POLL_S)
    assert world.desired is None
    world.holder = "n1"
    controller.reconcile("all")
    assert carries(world)


def test_the_time_without_an_api_does_not_count() -> None:
    world = World()
    controller = world.make_controller(tunnel_exists=True)
    world.now += 60
    assert controller.reconcile("all") == pytest.approx(tunnel_controller.UNKNOWN_POLL_S)
    assert world.desired is None


def test_where_nobody_leads_the_nodes_are_joined_all_the_same() -> None:
    world = World()
    controller = world.make_controller(tunnel_exists=True)
    controller.reconcile("all")
    world.now += tunnel_controller.UNKNOWN_S
    controller.reconcile("all")
    assert world.desired is not None
    assert not carries(world)


def test_a_disk_that_takes_nothing_does_not_hold_up_the_tunnel(caplog: pytest.LogCaptureFixture) -> None:
    world = World(holder="n1", fault=errors.JournalError("network.json can't be written: Read-only file system"))
    controller = world.make_controller(tunnel_exists=False)
    for _ in range(2):
        controller.reconcile("all")
    assert carries(world)
    assert controller.leadership is not None
    assert [record.message for record in caplog.records] == ["could not take up the node's network, retrying"]
    world.fault = None
    for _ in range(2):
        controller.reconcile("all")
    assert [str(found.node_address) for found in world.taken_up] == ["10.113.4.0"]
    assert len(world.work_queues.queue(AgentWork.STATUS)) == 1


def test_a_new_tunnel_waits_for_nobody() -> None:
    world = World()
    world.make_controller(tunnel_exists=False).reconcile("all")
    assert world.desired is not None
