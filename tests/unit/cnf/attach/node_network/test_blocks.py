"""Which network a node takes up."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib

import pytest

from cnf.attach import errors, journal, ledger, records
from cnf.attach.node_network import blocks as node_network_blocks
from cnf.attach.node_network import demand, network, supply
from fleetboard.model.addresses import Network

FIRST, SECOND = ipaddress.ip_network("10.113.4.64/26"), ipaddress.ip_network("10.113.4.0/26")


def make_network(*blocks: Network) -> network.NodeNetwork:
    return network.NodeNetwork(blocks[0].network_address, blocks, (ipaddress.ip_network("10.112.0.0/12"),), 1360)


def test_a_network_whose_node_address_a_pod_has_is_refused_until_the_pod_ends(tmp_path: pathlib.Path) -> None:
    book, known = ledger.Ledger(journal.Journal(tmp_path / "journal"), node="n"), supply.Supply()
    book.load()
    put: list[network.NodeNetwork] = []
    held = node_network_blocks.NodeBlocks(
        path=tmp_path / "network.json",
        node="n",
        book=book,
        known=known,
        surplus=demand.Surplus(),
        put_node=put.append,
    )
    held.change(make_network(FIRST, SECOND))
    pod = records.Record(container_id="c", interface="net1", addresses=[], mac="", cookie=1, boot="b")
    book.reserve(pod, requested=[SECOND.network_address])
    with pytest.raises(errors.NetworkRefusedError, match=r"10\.113\.4\.0, which a pod"):
        held.change(make_network(SECOND, FIRST))
    assert put == [known.network] == [make_network(FIRST, SECOND)]
    assert held.change(dataclasses.replace(make_network(FIRST, SECOND), mtu=1280))
    book.release(pod.key)
    assert held.change(make_network(SECOND, FIRST))
    book.close()
