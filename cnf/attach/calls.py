"""CNI calls: each is parsed, put in its container's order, served by its verb, and answered.

Invariant: calls of one container are served one at a time. An ADD that arrived before a DEL and is served after it is
refused, so a DEL wins over every ADD before it.
"""

from __future__ import annotations

import collections
import itertools
import threading
import time

from cnf.attach import add, check, delete, errors, identity, protocol, records, recovery, results
from cnf.attach.errors import CallRefusedError, Code
from cnf.attach.frames import Request, Response
from cnf.attach.node_resources import NodeResources
from cnf.attach.settings import CniHooks
from cnf.netlink import errors as netlink_errors

_LOCK_TIMEOUT_S = 25.0
_REMEMBERED_DELETIONS = 4096


class CallHandler:
    """Serves every verb of the specification. Thread-safe."""

    def __init__(
        self,
        resources: NodeResources,
        *,
        recovery: recovery.Recovery,
        hooks: CniHooks,
        boot_id: str,
        address_timeout_s: float,
    ) -> None:
        """``recovery`` frees the addresses of dead pods when an ADD finds none free."""
        self.address_timeout_s = address_timeout_s
        """Seconds that an ADD waits for a free address. May be changed at any time."""
        self._resources = resources
        self._recovery = recovery
        self._hooks = hooks
        self._adder = add.Adder(
            ledger=resources.ledger,
            plumber=resources.plumber,
            pods=resources.pods,
            supply=resources.supply,
            reclaim=self._reclaim_addresses,
            why_no_block=hooks.why_no_block,
            boot=boot_id,
            address_timeout_s=lambda: self.address_timeout_s,
        )
        self._deleter = delete.Deleter(resources.ledger, resources.plumber, resources.pods, resources.supply)
        self._checker = check.Checker(resources.ledger, resources.plumber, resources.pods, resources.supply)
        self._reclaim_turn = threading.Lock()
        self._arrivals = itertools.count(1)
        self._deletions: collections.OrderedDict[records.Key, int] = collections.OrderedDict()
        self._deletions_lock = threading.Lock()

    def call(self, request: Request) -> Response:
        """Serve one CNI call."""
        arrival, started = next(self._arrivals), time.monotonic()
        response, code = self._answer(request, arrival)
        verb = request.env.get("CNI_COMMAND", "")
        is_verb = verb in protocol.Verb.__members__
        self._hooks.on_call(verb if is_verb else "unknown", code, time.monotonic() - started)
        return response

    def count_calls(self, container_id: str) -> int:
        """Count the calls of a container that are served now or wait for their turn."""
        return self._resources.locks.users(container_id)

    def _answer(self, request: Request, arrival: int) -> tuple[Response, int]:
        try:
            call = protocol.parse_call(request.env, request.stdin)
            return self._serve(call, request, arrival), 0
        except CallRefusedError as err:
            refusal = err
        except errors.JournalError as err:
            refusal = CallRefusedError(Code.TRY_AGAIN, "the node's address journal can't be written", str(err))
        except netlink_errors.NetlinkError as err:
            refusal = CallRefusedError(Code.TRY_AGAIN, "the pod's interface can't be changed now", str(err))
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
        with self._resources.locks.hold(call.container_id, timeout_s=_LOCK_TIMEOUT_S) as held:
            if not held:
                raise CallRefusedError(
                    Code.TRY_AGAIN,
                    f"another call for container {call.container_id} has been running for more than "
                    f"{_LOCK_TIMEOUT_S:.0f} s",
                )
            return self._serve_container(call, request, arrival)

    def _serve_container(self, call: protocol.Call, request: Request, arrival: int) -> Response:
        if call.verb is protocol.Verb.ADD:
            if self._deletions.get(call.key, 0) > arrival:
                raise CallRefusedError(Code.CANCELLED, "the container was deleted meanwhile")
            added = self._adder.add(call, request)
            self._hooks.on_change()
            stdout = results.render_add(call, added.record, added.ends)
            return Response(0, stdout, undo=lambda: self._undo(added.record))
        if call.verb is protocol.Verb.DEL:
            if self._deleter.delete(call, request):
                self._hooks.on_change()
            return Response(0, b"")
        self._checker.check(call, request)
        return Response(0, b"")

    def _undo(self, record: records.Record) -> None:
        """Take back an ADD whose answer could not be delivered."""
        with self._resources.locks.hold(record.container_id, timeout_s=_LOCK_TIMEOUT_S) as held:
            current = self._resources.ledger.find(record.key)
            if not held or current is None or current.cookie != record.cookie:
                return
            self._resources.plumber.detach(identity.veth_name(*record.key))
            self._resources.ledger.release(record.key, quarantine=False)
        self._hooks.on_change()

    def _remember_deletion(self, key: records.Key, arrival: int) -> None:
        with self._deletions_lock:
            self._deletions[key] = arrival
            self._deletions.move_to_end(key)
            if len(self._deletions) > _REMEMBERED_DELETIONS:
                self._deletions.popitem(last=False)

    def _check_status(self) -> None:
        network = self._resources.supply.network
        if network is None or not network.blocks:
            raise CallRefusedError(Code.NOT_AVAILABLE, "this node has no fleet addresses yet")
        if not self._resources.plumber.holds(network.node_address):
            raise CallRefusedError(
                Code.LIMITED,
                f"the node's address {network.node_address} is missing in cnf: attached pods reach nothing",
            )
        if not self._resources.ledger.ensure_writable():
            raise CallRefusedError(Code.NOT_AVAILABLE, "the node's address journal can't be written")
        if not self._resources.ledger.usage().free:
            blocks = ", ".join(str(block) for block in network.active_blocks)
            raise CallRefusedError(Code.NOT_AVAILABLE, f"no free address in {blocks}")

    def _collect_garbage(self, call: protocol.Call) -> None:
        """Free what is dead among the attachments that the runtime doesn't list.

        An unlisted attachment that still exists in the kernel is kept: a wrong list must not cut off a pod.
        """
        if call.valid is None:
            return
        listed = call.valid
        self._recovery.collect_unlisted(lambda r: r.network == call.network and r.key not in listed)
        self._hooks.on_change()

    def _reclaim_addresses(self) -> None:
        """Free addresses of dead pods, and have the agent look at ``usage``."""
        self._hooks.on_change()
        # An ADD that finds another one sweeping waits for what that sweep frees.
        if self._reclaim_turn.acquire(blocking=False):
            try:
                self._recovery.sweep(self._resources.supply.network)
            finally:
                self._reclaim_turn.release()
