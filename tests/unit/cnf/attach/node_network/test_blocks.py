"""Which network a node takes up, and which it refuses."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib

import pytest

from cnf.attach import errors, journal, records
from cnf.attach.ledger import Ledger
from cnf.attach.node_network import demand, network
from cnf.attach.node_network.blocks import NodeBlocks
from cnf.attach.node_network.supply import Supply
from fleetboard.model.addresses import Network

FIRST, SECOND = ipaddress.ip_network("10.113.4.64/26"), ipaddress.ip_network("10.113.4.0/26")


def make_network(*blocks: Network) -> network.NodeNetwork:
    return network.NodeNetwork(blocks[0].network_address, blocks, (ipaddress.ip_network("10.112.0.0/12"),), 1360)


def test_a_network_whose_node_address_a_pod_has_is_refused_until_the_pod_ends(tmp_path: pathlib.Path) -> None:
    ledger, supply = Ledger(journal.Journal(tmp_path / "journal"), node="n"), Supply()
    ledger.load()
    put: list[network.NodeNetwork] = []
    node_blocks = NodeBlocks(
        path=tmp_path / "network.json",
        node="n",
        ledger=ledger,
        supply=supply,
        surplus=demand.Surplus(),
        ensure_node_addresses=put.append,
    )
    node_blocks.change(make_network(FIRST, SECOND))
    pod = records.Record(container_id="c", interface="net1", addresses=[], mac="", cookie=1, boot="b")
    ledger.reserve(pod, requested=[SECOND.network_address])
    with pytest.raises(errors.NetworkRefusedError, match=r"10\.113\.4\.0, which a pod"):
        node_blocks.change(make_network(SECOND, FIRST))
    assert put == [supply.network] == [make_network(FIRST, SECOND)]
    assert node_blocks.change(dataclasses.replace(make_network(FIRST, SECOND), mtu=1280))
    ledger.release(pod.key)
    assert node_blocks.change(make_network(SECOND, FIRST))
    ledger.close()
