"""The node's blocks: taking up what the API says, remembering it, and returning empty blocks.

Invariant: a block is first emptied, then written to the file as returned, and only then shown to the leader, which may
take it. The node allocates from a returned block again only after the leader took it and allocated it again.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import threading
from collections.abc import Callable

from cnf.attach import errors, ledger
from cnf.attach.node_network import demand, network_file, supply
from cnf.attach.node_network.network import NodeNetwork

log = logging.getLogger(__name__)


class NodeBlocks:
    """Changes ledger, file and ``supply`` together. Thread-safe."""

    def __init__(
        self,
        *,
        path: pathlib.Path,
        node: str,
        ledger: ledger.Ledger,
        supply: supply.Supply,
        surplus: demand.Surplus,
        ensure_node_addresses: Callable[[NodeNetwork], None],
    ) -> None:
        """``path`` is the network's file, which belongs to ``node`` alone."""
        self._path = path
        self._node = node
        self._ledger = ledger
        self._supply = supply
        self._surplus = surplus
        self._ensure_node_addresses = ensure_node_addresses
        self._turn = threading.Lock()

    def recall(self) -> NodeNetwork | None:
        """Take up the file's network; call it after the ledger is loaded. ``supply`` stays as it is."""
        network = network_file.read(self._path, node=self._node)
        if network is None:
            return None
        network = self._count_returned(network)
        self._install(network)
        return network

    def change(self, new: NodeNetwork) -> bool:
        """Take up the network that the API shows; return whether it differs from the current one.

        Raises:
            NetlinkError: the node's address can't be put in place; nothing changed.
            JournalError: the file can't be written, and the leader took a returned block; nothing changed.
            NetworkRefusedError: a pod holds what would be the node's own address; nothing changed.
        """
        with self._turn:
            old = self._supply.network
            # This node decides what it has returned; the caller's list counts only where nothing is remembered.
            returned = (new if old is None else old).returned
            new = dataclasses.replace(new, returned=tuple(block for block in returned if block in new.blocks))
            if new == old:
                return False
            new = self._count_returned(new)
            self._refuse_pods_address(new, old)
            self._install(new)
            try:
                network_file.write(self._path, new, node=self._node)
            except errors.JournalError as err:
                if old is not None and set(old.returned) - set(new.returned):
                    # The leader may allocate the block to this node again, and the file must not call it returned then.
                    self._install(old)
                    raise
                log.error("could not save the node's network for the next start", extra={"error": str(err)})
            self._supply.replace(new)
            return True

    def return_empty_blocks(self) -> int:
        """Allocate no more addresses from blocks that have been empty for long; return how many blocks."""
        with self._turn:
            network = self._supply.network
            if network is None:
                return 0
            active = network.active_blocks
            chosen = self._surplus.choose(active, idle=self._ledger.empty_blocks(), free=self._ledger.free)
            if not chosen or not self._ledger.close_blocks(chosen, excluded=network.gateways()):
                return 0
            new = dataclasses.replace(network, returned=(*network.returned, *chosen))
            try:
                network_file.write(self._path, new, node=self._node)
            except errors.JournalError as err:
                log.error("could not return empty blocks", extra={"error": str(err)})
                self._ledger.set_blocks(active, excluded=network.gateways())
                return 0
            self._supply.replace(new)
        log.info("returned empty blocks", extra={"blocks": [str(block) for block in chosen]})
        return len(chosen)

    def _count_returned(self, network: NodeNetwork) -> NodeNetwork:
        """Don't count a block as returned while a pod holds an address of it: the file may predate the journal."""
        returned = tuple(block for block in network.returned if not self._ledger.uses(block))
        return dataclasses.replace(network, returned=returned)

    def _refuse_pods_address(self, new: NodeNetwork, old: NodeNetwork | None) -> None:
        """Refuse a node address that a pod holds. It happens where the API lost which block was the node's first."""
        for address in new.gateways():
            if self._ledger.holds(address) and (old is None or address not in old.gateways()):
                blocks = ", ".join(str(block) for block in new.blocks)
                raise errors.NetworkRefusedError(
                    f"blocks {blocks}: the node's address would be {address}, which a pod holds until it ends"
                )

    def _install(self, network: NodeNetwork) -> None:
        self._ensure_node_addresses(network)
        self._ledger.set_blocks(network.active_blocks, excluded=network.gateways())
