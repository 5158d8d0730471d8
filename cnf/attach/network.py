"""What a node knows of the fleet, and the file that keeps it over restarts.

One invariant: the file holds what the daemon was last told, whole or not at all, so that a node wires its pods again
before it has reached the API.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import pathlib

import msgspec

from cnf.attach import errors
from fleetboard.model.addresses import Address, Network


@dataclasses.dataclass(frozen=True, slots=True)
class NodeNetwork:
    """The node's part of the fleet: its address, the blocks of its pods, the fleet's CIDRs and MTU."""

    node_address: Address
    blocks: tuple[Network, ...]
    fleet: tuple[Network, ...]
    mtu: int

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


def render(network: NodeNetwork) -> bytes:
    """Return the file's content."""
    return msgspec.json.encode(
        _File(str(network.node_address), [str(b) for b in network.blocks], [str(c) for c in network.fleet], network.mtu)
    )


def parse(content: bytes) -> NodeNetwork:
    """Parse the file's content.

    Raises:
        ValueError: not what ``render`` writes.
    """
    try:
        stored = msgspec.json.decode(content, type=_File)
    except msgspec.MsgspecError as err:
        raise ValueError(str(err)) from err
    return NodeNetwork(
        node_address=ipaddress.ip_address(stored.node_address),
        blocks=tuple(ipaddress.ip_network(block) for block in stored.blocks),
        fleet=tuple(ipaddress.ip_network(cidr) for cidr in stored.fleet),
        mtu=stored.mtu,
    )


def read(path: pathlib.Path) -> NodeNetwork | None:
    """Return what the file holds; nothing when there is none or it is damaged (the API will tell again)."""
    try:
        return parse(path.read_bytes())
    except (OSError, ValueError):
        return None


def write(path: pathlib.Path, network: NodeNetwork) -> None:
    """Replace the file.

    Raises:
        JournalError: the disk is full or read-only.
    """
    draft = path.with_suffix(".new")
    try:
        with draft.open("wb") as file:
            file.write(render(network))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as err:
        raise errors.JournalError(f"{path} can't be written: {err.strerror}") from err
