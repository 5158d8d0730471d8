"""The file in which a node remembers its part of the fleet."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import pathlib

import pytest

from cnf.attach import errors
from cnf.attach.node_network import network, network_file

FIRST, SECOND = (ipaddress.ip_network(f"10.113.4.{start}/26") for start in (0, 64))
KNOWN = network.NodeNetwork(
    node_address=FIRST.network_address,
    blocks=(FIRST, SECOND),
    fleet=(ipaddress.ip_network("10.112.0.0/12"),),
    mtu=1360,
    returned=(SECOND,),
)


def test_what_is_written_is_read_back(tmp_path: pathlib.Path) -> None:
    network_file.write(tmp_path / "network.json", KNOWN, node="a")
    assert network_file.read(tmp_path / "network.json", node="a") == KNOWN
    assert KNOWN.active_blocks == (FIRST,)


def test_a_copy_on_another_node_is_not_read(tmp_path: pathlib.Path) -> None:
    network_file.write(tmp_path / "network.json", KNOWN, node="a")
    assert network_file.read(tmp_path / "network.json", node="b") is None


def test_a_file_from_before_blocks_could_be_returned_is_read(tmp_path: pathlib.Path) -> None:
    content = b'{"node_address":"10.113.4.0","blocks":["10.113.4.0/26"],"fleet":["10.112.0.0/12"],"mtu":1360}'
    (tmp_path / "network.json").write_bytes(content)
    assert network_file.read(tmp_path / "network.json", node="a") == dataclasses.replace(
        KNOWN, blocks=(FIRST,), returned=()
    )


@pytest.mark.parametrize("content", [b"", b"{", b'{"node_address":1}', b'{"node_address":"x","blocks":[],"fleet":[]}'])
def test_a_damaged_file_counts_as_missing(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "network.json").write_bytes(content)
    assert network_file.read(tmp_path / "network.json") is None


def test_a_failed_write_leaves_what_was_there(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "network.json"
    network_file.write(path, KNOWN)

    def fsync(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(errors.JournalError, match="No space left"):
        network_file.write(path, dataclasses.replace(KNOWN, returned=()))
    assert network_file.read(path) == KNOWN
