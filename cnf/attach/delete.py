"""DEL: delete the interface, clean the pod, release the addresses.

Invariant: the addresses are released after the interface is gone, never before.

DEL is idempotent and best effort. It fails only if the kernel refuses to delete the interface. It succeeds when the
pod, its namespace, the record or the disk is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses

from cnf.attach import identity, ledger, plumber, pods, protocol, records, wiring
from cnf.attach.frames import Request
from cnf.attach.node_network import supply
from cnf.netlink import connection, errors, links
from cnf.netlink.namespace import NetworkNamespace


@dataclasses.dataclass(frozen=True, slots=True)
class Deleter:
    """Serves DEL."""

    ledger: ledger.Ledger
    plumber: plumber.Plumber
    pods: pods.Pods
    supply: supply.Supply

    def delete(self, call: protocol.Call, request: Request) -> bool:
        """Detach one pod; the caller holds the container's lock. Return whether it held an address.

        Raises:
            NetlinkError: the kernel refused to delete the interface, which keeps its addresses.
        """
        record = self.ledger.find(call.key)
        if record is not None and 0 < request.issued_at < record.reserved_at:
            return False  # spooled before the container was attached again
        self.plumber.detach(identity.veth_name(*call.key))
        self._clean_pod(call, record, request.namespace)
        return self.ledger.release(call.key)

    def _clean_pod(
        self, call: protocol.Call, record: records.Record | None, namespace: NetworkNamespace | None
    ) -> None:
        """Delete routes that outlive the interface, and an interface whose near end is in a former namespace of cnf."""
        pod = namespace or self.pods.open_unverified(call.netns)
        if pod is None:
            return
        try:
            with contextlib.suppress(errors.NetlinkError), pod.connect() as inside:
                is_its_pod = record is None or record.cookie == pod.cookie
                if is_its_pod and pod.cookie != self.plumber.own_cookie and not self._is_anothers(call, pod):
                    self._clean_inside(call, inside)
        finally:
            if namespace is None:
                pod.close()

    def _is_anothers(self, call: protocol.Call, pod: NetworkNamespace) -> bool:
        """Return whether the pod has another attachment, whose routes are the same: this one was a refused second."""
        holders = self.ledger.holders(cookie=pod.cookie, container_id=call.container_id)
        return any(other.key != call.key and other.cookie == pod.cookie for other in holders)

    def _clean_inside(self, call: protocol.Call, inside: connection.Connection) -> None:
        link = links.find(inside, call.interface)
        if link is not None:
            # The path may lead to another pod's namespace by now, and its interface is not ours to delete.
            if not identity.is_tag_of(link.alias, *call.key):
                return
            inside.send([links.delete(call.interface)])
        network = self.supply.network
        if network is not None:
            inside.send(wiring.plan_unfence(network.fleet))
