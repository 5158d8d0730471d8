"""Executes wiring plans in cnf's namespace and in pods'.

Invariant: ``attach`` leaves both ends complete or neither. Only ``list_pairs`` reads a whole table, so ADD and DEL
don't call it. Nothing here starts a process.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator

from cnf.attach import removal, wiring
from cnf.attach.node_network.network import NodeNetwork
from cnf.netlink import connection, errors, links
from cnf.netlink.namespace import NetworkNamespace
from fleetboard.model import names
from fleetboard.model.addresses import Address

_KEPT = 8
_OTHER_INDEX = 0x4000000


class OccupiedError(errors.NetlinkError):
    """The pod has an interface of that name already."""


class Plumber:
    """Executes wiring plans; ``netns`` is cnf's own namespace. Thread-safe."""

    def __init__(self, netns: NetworkNamespace) -> None:
        """The caller closes ``netns``, after ``close``."""
        self._netns = netns
        self._idle: queue.LifoQueue[connection.Connection] = queue.LifoQueue(_KEPT)
        self._remover = removal.Remover(self.kernel)

    @property
    def own_cookie(self) -> int:
        """The number of cnf's namespace."""
        return self._netns.cookie

    @contextlib.contextmanager
    def kernel(self) -> Iterator[connection.Connection]:
        """Lend a connection in cnf's namespace."""
        try:
            kernel = self._idle.get_nowait()
        except queue.Empty:
            kernel = self._netns.connect()
        try:
            yield kernel
        finally:
            try:
                if kernel.usable:
                    self._idle.put_nowait(kernel)
            except queue.Full:
                kernel.close()

    def close(self) -> None:
        """Wait for deletions in progress, and close idle connections."""
        self._remover.close()
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def ensure_node_addresses(self, network: NodeNetwork) -> None:
        """Ensure that cnf's namespace has the node's addresses."""
        with self.kernel() as kernel:
            kernel.send(wiring.plan_node(network))

    def holds(self, address: Address) -> bool:
        """Return whether cnf's namespace has that address."""
        return self._netns.holds(address)

    def attach(self, ends: wiring.Ends, *, pod: NetworkNamespace, inside: connection.Connection) -> wiring.Ends:
        """Create and wire both ends; return them with their indexes.

        Raises:
            OccupiedError: the pod has an interface of that name; nothing is changed.
            NetlinkError: the kernel refused; nothing is left.
        """
        created = self._create(ends, pod=pod, inside=inside)
        try:
            inside.send(wiring.plan_far(created))
            with self.kernel() as kernel:
                kernel.send(wiring.plan_near(created))
        except BaseException:
            self.abandon(created, inside=inside)
            raise
        return created

    def abandon(self, ends: wiring.Ends, *, inside: connection.Connection) -> None:
        """Undo ``attach``.

        Raises:
            NetlinkError: the interface can't be deleted.
        """
        self.detach(ends.near.name)
        with contextlib.suppress(errors.NetlinkError):
            inside.send(wiring.plan_unfence(ends.fleet))

    def rewire(self, ends: wiring.Ends) -> None:
        """Wire cnf's end of an existing pair again."""
        with self.kernel() as kernel:
            kernel.send(wiring.plan_near(ends))

    def retune(self, ends: wiring.Ends, *, inside: connection.Connection) -> None:
        """Wire both ends of an existing pair again, with MTU and routes to the fleet."""
        near, far = wiring.plan_mtu(ends)
        # The pod's end first: until both are lowered, cnf's end still takes packets of the old size.
        inside.send([far, *wiring.plan_far(ends)])
        with self.kernel() as kernel:
            kernel.send([near, *wiring.plan_near(ends)])

    def detach(self, name: str) -> None:
        """Delete a pair, if it exists, by the name of cnf's end."""
        self._remover.remove(name)

    def list_pairs(self) -> dict[str, links.Link]:
        """Return cnf's ends of all pairs by name.

        Incomplete while pairs change. It dumps the whole table, so it is not for ADD or DEL.
        """
        with self.kernel() as kernel:
            veths = links.read(kernel, kind="veth")
        return {link.name: link for link in veths if link.name.startswith(names.VETH_PREFIX)}

    def find(self, name: str) -> links.Link | None:
        """Return cnf's end of a pair; None if it doesn't exist."""
        with self.kernel() as kernel:
            return links.find(kernel, name)

    def _create(self, ends: wiring.Ends, *, pod: NetworkNamespace, inside: connection.Connection) -> wiring.Ends:
        """Create the pair, with the planned indexes where they are free."""
        tries = (
            ends,
            ends.at(ends.near.index + _OTHER_INDEX, ends.far.index),
            ends.at(0, 0),
        )
        for attempt in tries:
            try:
                with self.kernel() as kernel:
                    kernel.send([links.create_veth(attempt.near, attempt.far, namespace=pod.fileno())])
            except (errors.ExistsError, errors.BusyError):
                # A name or an index is taken; the kernel doesn't say which, nor in which namespace.
                if links.find(inside, ends.far.name) is not None:
                    raise OccupiedError(f"the pod has an interface {ends.far.name} already") from None
                self.detach(ends.near.name)
                continue
            return attempt if attempt.far.index else self._read_indexes(attempt, inside)
        raise errors.UnstableError(f"veth {ends.near.name} can't be created: its name is taken repeatedly")

    def _read_indexes(self, ends: wiring.Ends, inside: connection.Connection) -> wiring.Ends:
        near, far = self.find(ends.near.name), links.find(inside, ends.far.name)
        if near is None or far is None:
            raise errors.UnstableError(f"veth {ends.near.name} disappeared while it was created")
        return ends.at(near.index, far.index)
