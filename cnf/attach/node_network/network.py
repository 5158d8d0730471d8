"""What a node knows of the fleet, and the file that keeps it over restarts.

One invariant: the file holds what the daemon was last told and which blocks the node has given back, whole or not at
all, so that a node wires its pods again before it has reached the API, and never gives an address of a block that
another may have by now. It is this node's alone: a copy on another node is not read.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import os
import pathlib

import msgspec

from cnf.attach import errors, journal
from fleetboard.model.addresses import Address, Network

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class NodeNetwork:
    """The node's part of the fleet: its address, the blocks of its pods, the fleet's CIDRs and MTU.

    ``returned`` are blocks that the node gives no more addresses of and that the leader may take.
    """

    node_address: Address
    blocks: tuple[Network, ...]
    fleet: tuple[Network, ...]
    mtu: int
    returned: tuple[Network, ...] = ()

    @property
    def active_blocks(self) -> tuple[Network, ...]:
        """The blocks that addresses are given of."""
        return tuple(block for block in self.blocks if block not in self.returned)

    def gateways(self) -> tuple[Address, ...]:
        """Return the node's address of each family: its own, and the first of the first block of the other."""
        found = {self.node_address.version: self.node_address}
        for block in self.blocks:
            found.setdefault(block.version, block.network_address)
        return tuple(found[version] for version in sorted(found))

    def gateway(self, version: int) -> Address:
        """Return the node's address of one family; its blocks have that family."""
        return next(address for address in self.gateways() if address.version == version)


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
