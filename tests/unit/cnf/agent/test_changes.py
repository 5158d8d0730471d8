"""Which changes of other nodes and clusters a node acts on."""

from __future__ import annotations

import msgspec
import pytest

from cnf.agent import changes as agent_changes
from fleetboard.model import fleet, meta

NODE = fleet.FleetNode(
    metadata=meta.ObjectMeta(name="n1", uid="u1", resource_version="1"),
    spec=fleet.FleetNodeSpec(blocks=["10.113.0.0/26"]),
    status=fleet.FleetNodeStatus(public_key="k", endpoint="192.0.2.1:31820", mtu=1360, version="1"),
)
PEER = fleet.Peer(
    spec=fleet.PeerSpec(cluster="c2"),
    status=fleet.PeerStatus(cluster_cidrs=["10.114.0.0/22"], health=fleet.PeerHealth(since="then")),
)


def with_status(**changes: object) -> fleet.FleetNode:
    return msgspec.structs.replace(NODE, status=msgspec.structs.replace(NODE.status, **changes))


@pytest.mark.parametrize(
    "status", [{"addresses_used": 7}, {"addresses_free": 7}, {"version": "2"}, {"conditions": [1]}], ids=str
)
def test_counts_and_conditions_of_a_node_concern_no_plan(status: dict[str, object]) -> None:
    change_filter = agent_changes.ChangeFilter(agent_changes.node_essence)
    assert change_filter.differs("n1", NODE)

    assert not change_filter.differs("n1", with_status(**status))


@pytest.mark.parametrize(
    "field", sorted({*fleet.FleetNodeStatus.__struct_fields__} - {*agent_changes.UNPLANNED_FIELDS})
)
def test_every_other_field_of_a_node_is_noticed(field: str) -> None:
    change_filter = agent_changes.ChangeFilter(agent_changes.node_essence)
    change_filter.differs("n1", NODE)

    assert change_filter.differs("n1", with_status(**{field: "other"}))


@pytest.mark.parametrize(
    "changed",
    [
        msgspec.structs.replace(NODE, spec=fleet.FleetNodeSpec(blocks=["10.113.0.64/26"])),
        msgspec.structs.replace(NODE, metadata=meta.ObjectMeta(name="n1", uid="u2")),
        msgspec.structs.replace(NODE, metadata=meta.ObjectMeta(name="n1", uid="u1", deletion_timestamp="now")),
        None,
    ],
)
def test_blocks_of_a_node_created_again_and_its_end_are_noticed(changed: fleet.FleetNode | None) -> None:
    change_filter = agent_changes.ChangeFilter(agent_changes.node_essence)
    change_filter.differs("n1", NODE)

    assert change_filter.differs("n1", changed)
    assert not change_filter.differs("n1", changed)


def test_since_when_a_cluster_is_reachable_is_no_news_and_that_it_is_lost_is() -> None:
    change_filter = agent_changes.ChangeFilter(agent_changes.peer_essence)
    change_filter.differs("c2", PEER)

    assert not change_filter.differs("c2", with_health(fleet.PeerHealth(since="now")))
    assert change_filter.differs("c2", with_health(fleet.PeerHealth(reachable=False)))


def with_health(health: fleet.PeerHealth) -> fleet.Peer:
    return msgspec.structs.replace(PEER, status=msgspec.structs.replace(PEER.status, health=health))
