"""The node's CNI service: every verb, and what the daemon tells and asks it.

One invariant: calls of one container are served one at a time, in the order of their arrival as far as DEL goes: an
ADD that came before a DEL and is served after it is refused.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import pathlib
import threading
import time
from collections.abc import Callable

from cnf.attach import (
    add,
    check,
    delete,
    errors,
    identity,
    ipam,
    journal,
    ledger,
    locks,
    plumber,
    pods,
    protocol,
    records,
    recovery,
    results,
)
from cnf.attach.errors import CallRefusedError, Code
from cnf.attach.frames import Request, Response
from cnf.attach.node_network import blocks, demand, supply
from cnf.attach.node_network.network import NodeNetwork
from cnf.netlink import errors as netlink_errors
from cnf.netlink.namespace import NetworkNamespace
from fleetboard.model import fleet
from fleetboard.model.addresses import Network

_LOCK_TIMEOUT_S = 25.0
_REMEMBERED_DELETIONS = 4096
_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


def _ignore(verb: str, code: int, seconds: float) -> None:
    return None


class CniService:
    """Serves CNI calls of one node."""

    def __init__(
        self,
        *,
        state_dir: pathlib.Path,
        netns_dir: pathlib.Path,
        node_netns: NetworkNamespace,
        on_change: Callable[[], None],
        node: str = "",
        on_call: Callable[[str, int, float], None] = _ignore,
        outlook: Callable[[], str] = str,
        patience_s: float = 10.0,
        idle_s: float = demand.IDLE_S,
        boot_id: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``on_change`` is called, from any thread, whenever attachments or the count of free addresses changed.

        ``node`` marks the state folder's files as this node's. ``on_call`` hears of every call: its verb, the CNI
        error code or 0, and its seconds. ``patience_s`` is how long an ADD waits for an address before it says there
        is none; ``outlook`` then says why no further block comes, or nothing. ``idle_s`` is for how long a block is
        empty before it is given back.
        """
        self._folder = state_dir
        self._lock_file = -1
        self._on_change = on_change
        self._on_call = on_call
        boot = _BOOT_ID.read_text().strip() if boot_id is None else boot_id
        self._ledger = ledger.Ledger(journal.Journal(state_dir / "journal"), node=node, clock=clock, wall=wall)
        self._plumber = plumber.Plumber(node_netns)
        self._supply = supply.Supply()
        self._locks = locks.KeyedLocks()
        node_pods = pods.Pods(netns_dir)
        self._recovery = recovery.Recovery(
            ledger=self._ledger, plumber=self._plumber, pods=node_pods, locks=self._locks, boot=boot, clock=clock
        )
        self._adder = add.Adder(
            ledger=self._ledger,
            plumber=self._plumber,
            pods=node_pods,
            supply=self._supply,
            reclaim=self._ask_for_addresses,
            outlook=outlook,
            boot=boot,
            patience_s=patience_s,
        )
        self._deleter = delete.Deleter(self._ledger, self._plumber, node_pods, self._supply)
        self._checker = check.Checker(self._ledger, self._plumber, node_pods, self._supply)
        self._node_blocks = blocks.NodeBlocks(
            path=state_dir / "network.json",
            node=node,
            ledger=self._ledger,
            supply=self._supply,
            surplus=demand.Surplus(idle_s=idle_s, clock=clock),
            ensure_node_addresses=self._plumber.ensure_node_addresses,
        )
        self._reclaim_turn = threading.Lock()
        self._arrivals = itertools.count(1)
        self._deletions: collections.OrderedDict[records.Key, int] = collections.OrderedDict()
        self._deletions_lock = threading.Lock()

    def restore(self) -> recovery.RestoreSummary:
        """Bring back what was attached before this process began. Call it once, before the first ``call``.

        Raises:
            JournalError: another process holds the state folder, or it can't be read.
        """
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True)
        self._lock_file = journal.acquire(self._folder / "lock")
        damaged = self._ledger.load()
        freed = self._recovery.free_former_boots()
        known = self._node_blocks.recall()
        summary = self._recovery.sweep(known, at_start=True)
        if known is not None:
            self._supply.change(known)
        return dataclasses.replace(summary, damaged=damaged, freed=summary.freed + freed)

    def close(self) -> None:
        """Let go of files and sockets; the kernel keeps every interface."""
        self._ledger.close()
        self._plumber.close()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def set_network(self, new: NodeNetwork) -> None:
        """Say what the node's part of the fleet is: at first, with further blocks, with a lower MTU.

        ``new.returned`` is what the API says this node has given back.

        Raises:
            NetlinkError: the node's address can't be put in place; nothing changed.
            JournalError: that a block was taken can't be written down; nothing changed.
            NetworkRefusedError: a pod has what would be the node's own address; nothing changed.
        """
        old = self._supply.network
        if not self._node_blocks.change(new):
            return
        new = self._supply.network or new
        if old is None:
            self._recovery.sweep(new, at_start=True)
        elif new.mtu < old.mtu or new.fleet != old.fleet or new.node_address != old.node_address:
            self._recovery.retune(new)
        self._on_change()

    def return_empty_blocks(self) -> int:
        """Give no more addresses of blocks that have been empty for long; return how many.

        From then on ``network`` lists them as returned, for the leader to take.
        """
        count = self._node_blocks.return_empty_blocks()
        if count:
            self._on_change()
        return count

    @property
    def waiting(self) -> int:
        """Count the ADDs that wait for an address."""
        return self._supply.waiting

    def network(self) -> NodeNetwork | None:
        """Return what ``set_network`` said last."""
        return self._supply.network

    def attachments(self) -> list[fleet.Attachment]:
        """Return which pod holds which address: a pod that got a new sandbox, that one's alone."""
        return [
            fleet.Attachment(
                pod_uid=record.pod_uid,
                pod_namespace=record.pod_namespace,
                pod_name=record.pod_name,
                interface=record.interface,
                addresses=record.addresses,
            )
            for record in records.newest(self._ledger.attached())
        ]

    def held_blocks(self) -> tuple[Network, ...]:
        """Return the blocks that addresses are given of or pods have addresses of, the node's first one first."""
        return demand.held_blocks(self._supply.network, self._ledger.held_addresses())

    def usage(self) -> ipam.Usage:
        """Count addresses; the daemon asks for a block when few are free."""
        return self._ledger.usage()

    def collect(self) -> int:
        """Free what is dead, mend what is missing, give back what is empty; return how many were freed.

        Call it every half minute.
        """
        summary = self._recovery.sweep(self._supply.network)
        if summary.freed or summary.recreated:
            self._on_change()
        self._ledger.ensure_writable()
        self.return_empty_blocks()
        return summary.freed

    def call(self, request: Request) -> Response:
        """Serve one CNI call."""
        arrival, started = next(self._arrivals), time.monotonic()
        response, code = self._call(request, arrival)
        verb = request.env.get("CNI_COMMAND", "")
        known = verb in protocol.Verb.__members__
        self._on_call(verb if known else "unknown", code, time.monotonic() - started)
        return response

    def _call(self, request: Request, arrival: int) -> tuple[Response, int]:
        try:
            call = protocol.parse_call(request.env, request.stdin)
            return self._serve(call, request, arrival), 0
        except CallRefusedError as err:
            refusal = err
        except errors.JournalError as err:
            refusal = CallRefusedError(Code.TRY_AGAIN, "the node's address journal can't be written", str(err))
        except netlink_errors.NetlinkError as err:
            refusal = CallRefusedError(Code.TRY_AGAIN, "the kernel refused", str(err))
        return Response(1, results.render_error(protocol.echo_version(request.stdin), refusal)), int(refusal.code)

    def _serve(self, call: protocol.Call, request: Request, arrival: int) -> Response:
        match call.verb:
            case protocol.Verb.VERSION:
                return Response(0, results.render_version(call.version))
            case protocol.Verb.STATUS:
                self._check_status()
                return Response(0, b"")
            case protocol.Verb.GC:
                self._collect_garbage(call)
                return Response(0, b"")
        if call.verb is protocol.Verb.DEL:
            self._remember_deletion(call.key, arrival)
        with self._locks.hold(call.container_id, timeout_s=_LOCK_TIMEOUT_S) as held:
            if not held:
                raise CallRefusedError(
                    Code.TRY_AGAIN, f"another call of container {call.container_id} takes more than 25 s"
                )
            return self._serve_container(call, request, arrival)

    def _serve_container(self, call: protocol.Call, request: Request, arrival: int) -> Response:
        if call.verb is protocol.Verb.ADD:
            if self._deletions.get(call.key, 0) > arrival:
                raise CallRefusedError(Code.CANCELLED, "the container was deleted meanwhile")
            added = self._adder.add(call, request)
            self._on_change()
            stdout = results.render_add(call, added.record, added.ends)
            return Response(0, stdout, undo=lambda: self._undo(added.record))
        if call.verb is protocol.Verb.DEL:
            if self._deleter.delete(call, request):
                self._on_change()
            return Response(0, b"")
        self._checker.check(call, request)
        return Response(0, b"")

    def _undo(self, record: records.Record) -> None:
        """Take an ADD back whose answer nobody heard."""
        with self._locks.hold(record.container_id, timeout_s=_LOCK_TIMEOUT_S) as held:
            current = self._ledger.find(record.key)
            if not held or current is None or current.cookie != record.cookie:
                return
            self._plumber.detach(identity.veth_name(*record.key))
            self._ledger.release(record.key, quarantine=False)
        self._on_change()

    def _remember_deletion(self, key: records.Key, arrival: int) -> None:
        with self._deletions_lock:
            self._deletions[key] = arrival
            self._deletions.move_to_end(key)
            if len(self._deletions) > _REMEMBERED_DELETIONS:
                self._deletions.popitem(last=False)

    def _check_status(self) -> None:
        known = self._supply.network
        if known is None or not known.blocks:
            raise CallRefusedError(Code.NOT_AVAILABLE, "this node has no fleet addresses yet")
        if not self._plumber.holds(known.node_address):
            raise CallRefusedError(
                Code.LIMITED, f"the node's address {known.node_address} is missing in cnf: attached pods reach nothing"
            )
        if not self._ledger.ensure_writable():
            raise CallRefusedError(Code.NOT_AVAILABLE, "the node's address journal can't be written")
        if not self._ledger.usage().free:
            raise CallRefusedError(
                Code.NOT_AVAILABLE, f"no free address in {', '.join(str(block) for block in known.active_blocks)}"
            )

    def _collect_garbage(self, call: protocol.Call) -> None:
        """Look again for what is dead among those the runtime doesn't name.

        What it doesn't name and still lives in the kernel is left: a list that is wrong must not cut off a pod.
        """
        if call.valid is None:
            return
        listed = call.valid
        self._recovery.collect_unlisted(lambda r: r.network == call.network and r.key not in listed)
        self._on_change()

    def _ask_for_addresses(self) -> None:
        """Do what may free an address now, and have the daemon look at ``usage``."""
        self._on_change()
        if self._reclaim_turn.acquire(blocking=False):  # who finds another looking waits for what that one finds
            try:
                self._recovery.sweep(self._supply.network)
            finally:
                self._reclaim_turn.release()
