"""The file that keeps the node's network over restarts.

With it a node wires its pods again before it reaches the API. It also lists the blocks that the node has returned, and
another node may own such a block by now.

Invariant: a write that fails leaves the file as it was, and a copy on another node is not read.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import pathlib

import msgspec

from cnf.attach import errors, journal
from cnf.attach.node_network.network import NodeNetwork

log = logging.getLogger(__name__)


class _File(msgspec.Struct, frozen=True):
    node_address: str
    blocks: list[str]
    fleet: list[str]
    mtu: int
    returned: list[str] = []
    node: str = ""


def render(network: NodeNetwork, *, node: str = "") -> bytes:
    """Return the file's content."""
    return msgspec.json.encode(
        _File(
            node_address=str(network.node_address),
            blocks=[str(block) for block in network.blocks],
            fleet=[str(cidr) for cidr in network.fleet],
            mtu=network.mtu,
            returned=[str(block) for block in network.returned],
            node=node,
        )
    )


def parse(content: bytes, *, node: str = "") -> NodeNetwork:
    """Parse the file's content.

    Raises:
        ValueError: ``render`` wrote no such content, or another node did.
    """
    try:
        stored = msgspec.json.decode(content, type=_File)
    except msgspec.MsgspecError as err:
        raise ValueError(str(err)) from err
    if node and stored.node not in ("", node):
        raise ValueError(f"it belongs to node {stored.node!r}: expected {node!r}")
    return NodeNetwork(
        node_address=ipaddress.ip_address(stored.node_address),
        blocks=tuple(ipaddress.ip_network(block) for block in stored.blocks),
        fleet=tuple(ipaddress.ip_network(cidr) for cidr in stored.fleet),
        mtu=stored.mtu,
        returned=tuple(ipaddress.ip_network(block) for block in stored.returned),
    )


def read(path: pathlib.Path, *, node: str = "") -> NodeNetwork | None:
    """Return the file's network; None when the file is missing, damaged or another node's. The API shows it again."""
    try:
        return parse(path.read_bytes(), node=node)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        log.error("could not read the node's network", extra={"path": str(path), "error": str(err)})
        return None


def write(path: pathlib.Path, network: NodeNetwork, *, node: str = "") -> None:
    """Replace the file durably.

    Raises:
        JournalError: the disk is full or read-only.
    """
    draft = path.with_suffix(".new")
    try:
        with draft.open("wb") as file:
            file.write(render(network, node=node))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        journal.sync_folder(path.parent)
    except OSError as err:
        raise errors.JournalError(f"{path} can't be written: {err.strerror}") from err
