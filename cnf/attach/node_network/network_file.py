"""The file that keeps the node's network over restarts.

One invariant: the file holds what the daemon was last told and which blocks the node has given back, whole or not at
all, so that a node wires its pods again before it has reached the API, and never gives an address of a block that
another may have by now. It is this node's alone: a copy on another node is not read.
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
        ValueError: not what ``render`` writes, or of another node.
    """
    try:
        stored = msgspec.json.decode(content, type=_File)
    except msgspec.MsgspecError as err:
        raise ValueError(str(err)) from err
    if node and stored.node not in ("", node):
        raise ValueError(f"it is of node {stored.node!r}: expected {node!r}")
    return NodeNetwork(
        node_address=ipaddress.ip_address(stored.node_address),
        blocks=tuple(ipaddress.ip_network(block) for block in stored.blocks),
        fleet=tuple(ipaddress.ip_network(cidr) for cidr in stored.fleet),
        mtu=stored.mtu,
        returned=tuple(ipaddress.ip_network(block) for block in stored.returned),
    )


def read(path: pathlib.Path, *, node: str = "") -> NodeNetwork | None:
    """Return what the file holds; nothing when there is none or it is no good here (the API will tell again)."""
    try:
        return parse(path.read_bytes(), node=node)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        log.error("the node's network is not remembered", extra={"file": str(path), "error": str(err)})
        return None


def write(path: pathlib.Path, network: NodeNetwork, *, node: str = "") -> None:
    """Replace the file, durably.

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
