"""ADD: allocate addresses, write the journal, wire the pod, complete the journal's entry, answer.

Invariant: an ADD that fails, at whichever step, leaves no interface, no route and no address.

The disk writes the reservation while the kernel works, and the answer waits for both. It need not wait for the commit:
a crash of the process leaves what was written, and a crash of the machine ends every namespace.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

from cnf.attach import errors, identity, ledger, plumber, pods, protocol, records, wiring
from cnf.attach.errors import CallRefusedError, Code
from cnf.attach.frames import Request
from cnf.attach.node_network import supply
from cnf.attach.node_network.network import NodeNetwork
from cnf.netlink import connection
from cnf.netlink import errors as netlink_errors
from cnf.netlink.namespace import NetworkNamespace

log = logging.getLogger(__name__)

_SWEEP_AGAIN_S = 1.2


@dataclasses.dataclass(frozen=True, slots=True)
class Added:
    """The result of ADD."""

    record: records.Record
    ends: wiring.Ends


@dataclasses.dataclass(frozen=True, slots=True)
class Adder:
    """Serves ADD.

    ``reclaim`` frees dead pods' addresses when none is free. ``why_no_block`` returns why no further block will come,
    or nothing. ``boot`` is the machine's boot id; ``address_timeout_s`` returns how many seconds to wait for a free
    address.
    """

    ledger: ledger.Ledger
    plumber: plumber.Plumber
    pods: pods.Pods
    supply: supply.Supply
    reclaim: Callable[[], object]
    why_no_block: Callable[[], str]
    boot: str
    address_timeout_s: Callable[[], float]

    def add(self, call: protocol.Call, request: Request) -> Added:
        """Attach one pod; the caller holds the container's lock.

        Raises:
            CallRefusedError: the pod can't be attached; nothing is left behind.
        """
        passed = request.namespace
        pod = passed or self.pods.open_unverified(call.netns)
        if pod is None:
            raise CallRefusedError(Code.INVALID_NETNS, f"CNI_NETNS {call.netns!r} can't be opened")
        try:
            with pod.connect() as inside:
                return self._add_inside(call, request, pod, inside)
        except netlink_errors.NamespaceError as err:
            raise CallRefusedError(Code.INVALID_NETNS, f"CNI_NETNS {call.netns!r} can't be entered", str(err)) from err
        finally:
            if passed is None:
                pod.close()

    def _add_inside(
        self, call: protocol.Call, request: Request, pod: NetworkNamespace, inside: connection.Connection
    ) -> Added:
        if pod.cookie == self.plumber.own_cookie:
            raise CallRefusedError(Code.INVALID_NETNS, f"CNI_NETNS {call.netns!r} is cnf's own namespace")
        self._refuse_second(call, pod.cookie)
        record, offset, network = self._reserve(call, request, pod)
        ends: wiring.Ends | None = None
        try:
            ends = self._wire(record, network, pod=pod, inside=inside)
            self.ledger.commit(record.key, index=ends.far.index)
            self.ledger.sync(offset)
            _refuse_cancelled(request)
        except BaseException:
            self._roll_back(record, ends, inside)
            raise
        return Added(record, ends)

    def _roll_back(self, record: records.Record, ends: wiring.Ends | None, inside: connection.Connection) -> None:
        """Undo a failed ADD. An interface that can't be deleted keeps its address until the next sweep."""
        try:
            if ends is not None:
                self.plumber.abandon(ends, inside=inside)
        except netlink_errors.NetlinkError as err:
            log.error(
                "could not undo a failed ADD, retrying", extra={"container": record.container_id, "error": str(err)}
            )
            return
        self.ledger.release(record.key, quarantine=False)

    def _refuse_second(self, call: protocol.Call, cookie: int) -> None:
        for other in self.ledger.holders(cookie=cookie, container_id=call.container_id):
            if self.plumber.find(identity.veth_name(*other.key)) is not None:
                self._refuse_beside(call, cookie, other)
            elif other.key != call.key:
                # Its DEL was lost and its interface is gone. A retry under the same key keeps the address.
                self.ledger.release(other.key)

    def _refuse_beside(self, call: protocol.Call, cookie: int, other: records.Record) -> None:
        if other.key != call.key:
            raise CallRefusedError(
                Code.ALREADY_ATTACHED,
                f"the pod has a fleet interface already: {other.interface} with {', '.join(other.addresses)}",
                "a pod has one attachment at most",
            )
        if other.cookie == cookie:
            raise CallRefusedError(Code.INTERFACE_EXISTS, f"the pod has an interface {call.interface} already")
        # The container was restarted in a new namespace and its DEL was lost.
        self.plumber.detach(identity.veth_name(*other.key))

    def _reserve(
        self, call: protocol.Call, request: Request, pod: NetworkNamespace
    ) -> tuple[records.Record, int, NodeNetwork]:
        draft = self._draft(call, pod)
        deadline = time.monotonic() + self.address_timeout_s()
        while True:
            _refuse_cancelled(request)
            generation = self.supply.generation
            try:
                network = _require(self.supply.network)
                record, offset = self.ledger.reserve(draft, requested=call.requested)
            except errors.ExhaustedError as err:
                with self.supply.count_waiting():
                    self._reclaim()
                    now = time.monotonic()
                    if now >= deadline:
                        raise errors.ExhaustedError(f"{err.message}; {self._explain()}") from err
                    # Dead pods are freed when two sweeps find them so: sweep again while waiting.
                    until = min(deadline, now + _SWEEP_AGAIN_S)
                    self.supply.wait(generation, deadline=until, cancelled=request.cancelled)
                continue
            return record, offset, network

    def _reclaim(self) -> None:
        """Free addresses of dead pods. If the kernel doesn't answer, a block may still come."""
        try:
            self.reclaim()
        except netlink_errors.NetlinkError as err:
            log.warning("could not scan for addresses of dead pods", extra={"error": str(err)})

    def _explain(self) -> str:
        return self.why_no_block() or (
            f"no further block came within {self.address_timeout_s():.0f} s: the cluster has no leader to allocate "
            "one, or this node doesn't reach the API"
        )

    def _draft(self, call: protocol.Call, pod: NetworkNamespace) -> records.Record:
        return records.Record(
            container_id=call.container_id,
            interface=call.interface,
            addresses=[],
            mac=call.mac or identity.pod_mac(*call.key),
            cookie=pod.cookie,
            boot=self.boot,
            netns=call.netns if self.pods.leads_to(call.netns, pod) else "",
            network=call.network,
            pod_namespace=call.pod_namespace,
            pod_name=call.pod_name,
            pod_uid=call.pod_uid,
        )

    def _wire(
        self, record: records.Record, network: NodeNetwork, *, pod: NetworkNamespace, inside: connection.Connection
    ) -> wiring.Ends:
        try:
            return self.plumber.attach(wiring.plan_ends(record, network), pod=pod, inside=inside)
        except plumber.OccupiedError as err:
            raise CallRefusedError(Code.INTERFACE_EXISTS, str(err)) from err
        except netlink_errors.NetlinkError as err:
            raise CallRefusedError(Code.WIRING_FAILED, "the interface can't be wired", str(err)) from err


def _refuse_cancelled(request: Request) -> None:
    if request.cancelled():
        raise CallRefusedError(Code.CANCELLED, "the caller hung up before it got its answer")


def _require(network: NodeNetwork | None) -> NodeNetwork:
    if network is None or not network.blocks:
        raise errors.ExhaustedError(
            "this node has no fleet addresses yet: the cluster has not joined the fleet, or it has no leader that "
            "could allocate a block to this node"
        )
    return network
