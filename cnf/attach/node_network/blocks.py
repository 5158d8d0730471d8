"""The node's part of the fleet as this node keeps it: taking it up, remembering it, giving empty blocks back.

One invariant: a block is first emptied, then written down as returned, and only then shown to the leader, which may
take it; nothing makes a returned block ours again but the leader that took it and gave it anew.
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
    """Moves ledger, file and ``supply`` together. Any thread."""

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
        """``path`` is the file that remembers, for ``node`` alone."""
        self._path = path
        self._node = node
        self._ledger = ledger
        self._supply = supply
        self._surplus = surplus
        self._ensure_node_addresses = ensure_node_addresses
        self._turn = threading.Lock()

    def recall(self) -> NodeNetwork | None:
        """Take up what the file says, once the ledger is loaded; ``supply`` doesn't hear of it yet."""
        known = network_file.read(self._path, node=self._node)
        if known is None:
            return None
        known = self._count_returned(known)
        self._install(known)
        return known

    def change(self, new: NodeNetwork) -> bool:
        """Take up what the API says; return whether that is anything new.

        Raises:
            NetlinkError: the node's address can't be put in place; nothing changed.
            JournalError: that a block was taken can't be written down; nothing changed.
            NetworkRefusedError: a pod has what would be the node's own address; nothing changed.
        """
        with self._turn:
            old = self._supply.network
            # What was given back is ours to say; the caller's word counts where nothing is remembered.
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
                    # The leader may give such a block to us again only once no file of ours says it is given back.
                    self._install(old)
                    raise
                log.error("the node's network can't be kept for the next start", extra={"error": str(err)})
            self._supply.change(new)
            return True

    def return_empty_blocks(self) -> int:
        """Give no more addresses of blocks that have been empty for long; return how many."""
        with self._turn:
            known = self._supply.network
            if known is None:
                return 0
            chosen = self._surplus.choose(known.active_blocks, idle=self._ledger.empty_blocks(), free=self._ledger.free)
            if not chosen or not self._ledger.withdraw(chosen, excluded=known.gateways()):
                return 0
            new = dataclasses.replace(known, returned=(*known.returned, *chosen))
            try:
                network_file.write(self._path, new, node=self._node)
            except errors.JournalError as err:
                log.error("empty blocks can't be given back", extra={"error": str(err)})
                self._ledger.set_blocks(known.active_blocks, excluded=known.gateways())
                return 0
            self._supply.change(new)
        log.info("empty blocks are given back", extra={"blocks": [str(block) for block in chosen]})
        return len(chosen)

    def _count_returned(self, known: NodeNetwork) -> NodeNetwork:
        """Count no block as returned that a pod has an address of: the file may be older than the journal."""
        kept = tuple(block for block in known.returned if not self._ledger.uses(block))
        return dataclasses.replace(known, returned=kept)

    def _refuse_pods_address(self, new: NodeNetwork, old: NodeNetwork | None) -> None:
        """Let the node have no address that a pod has: so it is where the API lost which block was its first."""
        for address in new.gateways():
            if self._ledger.holds(address) and (old is None or address not in old.gateways()):
                blocks = ", ".join(str(block) for block in new.blocks)
                raise errors.NetworkRefusedError(
                    f"blocks {blocks}: the node's address would be {address}, which a pod of it has until it ends"
                )

    def _install(self, known: NodeNetwork) -> None:
        self._ensure_node_addresses(known)
        self._ledger.set_blocks(known.active_blocks, excluded=known.gateways())
