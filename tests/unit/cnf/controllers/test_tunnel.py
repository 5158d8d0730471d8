"""A restarted agent leaves the tunnel alone until it knows who leads."""

from __future__ import annotations

import dataclasses
from typing import cast

import pytest

from cnf.agent import caches
from cnf.attach import errors
from cnf.attach.node_network import network
from cnf.controllers import tunnel as controller_tunnel
from cnf.tunnel.plan.wanted import Wanted
from cnf.tunnel.session import session
from cnf.tunnel.wireguard import key, tunnel
from fleetboard.kube import lease
from fleetboard.model import fleet, meta, names

OWN, HUB = key.generate().public, key.generate().public


@dataclasses.dataclass
class World:
    """What steering sees and does; ``holder`` is the leader that the Lease names, empty before it was read."""

    holder: str = ""
    epoch: int = 3
    now: float = 100.0
    public_key: str = OWN
    wanted: Wanted | None = None
    fault: Exception | None = None
    taken_up: list[network.NodeNetwork] = dataclasses.field(default_factory=list)
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

    def want(self, wanted: Wanted) -> None:
        self.wanted = wanted

    def update(self, _session: session.Session) -> None:
        pass

    def take_up(self, found: network.NodeNetwork) -> None:
        if self.fault is not None:
            raise self.fault
        self.taken_up.append(found)

    def steer(self, *, standing: bool) -> controller_tunnel.Steering:
        return controller_tunnel.Steering(
            node="n1",
            cluster="c1",
            known=cast("caches.Caches", self),
            carrier=cast("tunnel.Tunnel", self),
            keeper=cast("session.SessionRunner", self),
            elector=cast("lease.Elector", self),
            on_network=self.take_up,
            standing=standing,
            clock=lambda: self.now,
        )


def carries(world: World) -> bool:
    return world.wanted is not None and world.wanted.peer(HUB) is not None


def test_a_standing_tunnel_is_left_alone_until_the_lease_was_read() -> None:
    world = World()
    steered = world.steer(standing=True)
    assert steered.reconcile("all") == pytest.approx(controller_tunnel.UNKNOWN_POLL_S)
    assert world.wanted is None
    world.holder = "n1"
    steered.reconcile("all")
    assert carries(world)


def test_the_time_without_an_api_does_not_count() -> None:
    world = World()
    steered = world.steer(standing=True)
    world.now += 60
    assert steered.reconcile("all") == pytest.approx(controller_tunnel.UNKNOWN_POLL_S)
    assert world.wanted is None


def test_where_nobody_leads_the_nodes_are_joined_all_the_same() -> None:
    world = World()
    steered = world.steer(standing=True)
    steered.reconcile("all")
    world.now += controller_tunnel.UNKNOWN_S
    steered.reconcile("all")
    assert world.wanted is not None
    assert not carries(world)


def test_a_disk_that_takes_nothing_does_not_hold_up_the_tunnel(caplog: pytest.LogCaptureFixture) -> None:
    world = World(holder="n1", fault=errors.JournalError("network.json can't be written: Read-only file system"))
    steered = world.steer(standing=False)
    for _ in range(2):
        steered.reconcile("all")
    assert carries(world)
    assert steered.leadership is not None
    assert [record.message for record in caplog.records] == ["the node's network is not taken up"]
    world.fault = None
    for _ in range(2):
        steered.reconcile("all")
    assert [str(found.node_address) for found in world.taken_up] == ["10.113.4.0"]


def test_a_new_tunnel_waits_for_nobody() -> None:
    world = World()
    world.steer(standing=False).reconcile("all")
    assert world.wanted is not None
