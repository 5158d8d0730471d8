"""The node's CNI service: its calls, its attachments, and the node's network.

It starts with ``restore``, learns its addresses by ``set_network``, serves ``call``, and is swept by ``collect``. All
of it works without the API: the agent brings the network and reads what it reports.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable

from cnf.attach import calls, ipam, journal, records, recovery
from cnf.attach.node_network import blocks, demand
from cnf.attach.node_network.network import NodeNetwork
from cnf.attach.node_resources import NodeResources
from cnf.attach.settings import CniHooks, CniSettings
from cnf.netlink.namespace import NetworkNamespace
from fleetboard.model import fleet
from fleetboard.model.addresses import Network


class CniService:
    """Serves the CNI calls of one node. Thread-safe."""

    def __init__(
        self,
        settings: CniSettings,
        *,
        node_netns: NetworkNamespace,
        hooks: CniHooks,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``node_netns`` is cnf's own namespace, where the near ends of pods are; it stays the caller's to close."""
        self._state_dir = settings.state_dir
        self._lock_file = -1
        self._hooks = hooks
        self._resources = NodeResources.build(settings, node_netns=node_netns, clock=clock, wall=wall)
        self._recovery = recovery.Recovery(self._resources, boot=settings.boot_id, clock=clock)
        self._node_blocks = blocks.NodeBlocks(
            path=settings.state_dir / "network.json",
            node=settings.node,
            ledger=self._resources.ledger,
            supply=self._resources.supply,
            surplus=demand.Surplus(idle_s=settings.idle_s, clock=clock),
            ensure_node_addresses=self._resources.plumber.ensure_node_addresses,
        )
        self.calls = calls.CallHandler(
            self._resources,
            recovery=self._recovery,
            hooks=hooks,
            boot_id=settings.boot_id,
            address_timeout_s=settings.address_timeout_s,
        )

    def restore(self) -> recovery.RestoreSummary:
        """Bring back what was attached before this process began. Call it once, before the first ``call``.

        Raises:
            JournalError: another process holds the state folder, or it can't be read.
        """
        if not self._state_dir.is_dir():
            self._state_dir.mkdir(parents=True)
        self._lock_file = journal.acquire(self._state_dir / "lock")
        damaged = self._resources.ledger.load()
        freed = self._recovery.free_former_boots()
        network = self._node_blocks.recall()
        summary = self._recovery.sweep(network, at_start=True)
        if network is not None:
            self._resources.supply.replace(network)
        return dataclasses.replace(summary, damaged=damaged, freed=summary.freed + freed)

    def close(self) -> None:
        """Close files and sockets; the kernel keeps every interface."""
        self._resources.ledger.close()
        self._resources.plumber.close()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def set_network(self, new: NodeNetwork) -> None:
        """Set the node's part of the fleet: first of all, with a further block, with a lower MTU.

        ``new.returned`` are the blocks that this node has returned, as the API shows them.

        Raises:
            NetlinkError: the node's address can't be put in place; nothing changed.
            JournalError: the file of the node's network can't be written; nothing changed.
            NetworkRefusedError: a pod holds what would be the node's own address; nothing changed.
        """
        old = self._resources.supply.network
        if not self._node_blocks.change(new):
            return
        new = self._resources.supply.network or new
        if old is None:
            self._recovery.sweep(new, at_start=True)
        elif new.mtu < old.mtu or new.fleet != old.fleet or new.node_address != old.node_address:
            self._recovery.retune(new)
        self._hooks.on_change()

    @property
    def waiting(self) -> int:
        """Count the ADDs that wait for an address."""
        return self._resources.supply.waiting

    def network(self) -> NodeNetwork | None:
        """Return the node's part of the fleet, as far as it is known."""
        return self._resources.supply.network

    def attachments(self) -> list[fleet.Attachment]:
        """Return which pod holds which addresses; of a pod with several sandboxes only the newest counts."""
        return [
            fleet.Attachment(
                pod_uid=record.pod_uid,
                pod_namespace=record.pod_namespace,
                pod_name=record.pod_name,
                interface=record.interface,
                addresses=record.addresses,
            )
            for record in records.newest(self._resources.ledger.attached())
        ]

    def held_blocks(self) -> tuple[Network, ...]:
        """Return the blocks that addresses are allocated from or held in, the node's first block first."""
        return demand.held_blocks(self._resources.supply.network, self._resources.ledger.held_addresses())

    def usage(self) -> ipam.Usage:
        """Count addresses; the agent asks for a block when few are free."""
        return self._resources.ledger.usage()

    def collect(self) -> int:
        """Sweep, make the journal writable again, return empty blocks; return how many attachments were freed.

        Call it every half minute. ``network`` lists the returned blocks from then on, and the leader may take them.
        """
        summary = self._recovery.sweep(self._resources.supply.network)
        if summary.freed or summary.recreated:
            self._hooks.on_change()
        self._resources.ledger.ensure_writable()
        if self._node_blocks.return_empty_blocks():
            self._hooks.on_change()
        return summary.freed
