"""Wires pods that were started without their interface (``latecomers``).

One invariant: a namespace is wired for a pod only when it holds the pod's primary address, which is unique on a node.
"""

from __future__ import annotations

import ipaddress
import logging
import pathlib
from collections.abc import Callable

import msgspec

from cnf.attach import frames
from cnf.controllers.latecomers import plan
from cnf.netlink import errors as netlink_errors
from cnf.netlink.namespace import NetworkNamespace
from fleetboard.kube import events
from fleetboard.model import core, fleet, names
from fleetboard.model.addresses import Address

log = logging.getLogger(__name__)

AGAIN_S = 10.0
SETTLE_S = 2.0
"""How long a pod may stay without its interface before we look for it: its own ADD may be under way."""
_CONFIG = {"cniVersion": "1.0.0", "name": names.NETWORK, "type": "fleetboard"}


class Healing:
    """Finds latecomers and attaches them, as the CNI call that never came would have.

    Attributes:
        waiting: Pods without their interface as of the last look.
        healed: How many were wired since the start.
    """

    def __init__(
        self,
        *,
        netns_dir: pathlib.Path,
        pods: Callable[[], list[core.Pod]],
        attachments: Callable[[], list[fleet.Attachment]],
        call: Callable[[frames.Request], frames.Response],
        recorder: events.Recorder,
    ) -> None:
        self._netns_dir, self._pods, self._attachments = netns_dir, pods, attachments
        self._call, self._recorder = call, recorder
        self._suspects: frozenset[plan.Latecomer] = frozenset()
        self.waiting = 0
        self.healed = 0

    def reconcile(self, _key: str) -> float:
        """Wire those that lacked their interface at two looks in a row."""
        found = plan.find(self._pods(), self._attachments())
        confirmed = [late for late in found if late in self._suspects]
        self._suspects = frozenset(found)
        for late in confirmed:
            self._heal(late)
        self.waiting = len(found)
        # Those that can't be helped are looked at seldom: each look enters every namespace of the node.
        return SETTLE_S if len(found) > len(confirmed) else AGAIN_S

    def _heal(self, late: plan.Latecomer) -> None:
        namespace = self._find_namespace(ipaddress.ip_address(late.address))
        if namespace is None:
            self._tell(late, "Warning", "NoFleetInterface", "runs without its interface and its namespace is not found")
            return
        path, opened = namespace
        with opened:
            response = self._call(frames.Request(_environment(late, path), msgspec.json.encode(_CONFIG), opened))
        if response.code == 0:
            self.healed += 1
            self._tell(late, "Normal", "FleetInterfaceAdded", "started without its interface, which it has got now")
        else:
            answer = response.stdout.decode(errors="replace")
            self._tell(late, "Warning", "NoFleetInterface", f"runs without its interface: {answer}")

    def _find_namespace(self, address: Address) -> tuple[pathlib.Path, NetworkNamespace] | None:
        for path in sorted(self._netns_dir.iterdir()) if self._netns_dir.is_dir() else []:
            try:
                opened = NetworkNamespace.open(path)
            except netlink_errors.NamespaceError:
                continue
            try:
                if opened.holds(address):
                    return path, opened
            except netlink_errors.NamespaceError:
                log.debug("a namespace can't be entered", extra={"path": str(path)})
            opened.close()
        return None

    def _tell(self, late: plan.Latecomer, type_: events.EventType, reason: str, message: str) -> None:
        where = {"apiVersion": "v1", "kind": "Pod", "name": late.name, "namespace": late.namespace, "uid": late.uid}
        log.warning("%s", message, extra={"pod": f"{late.namespace}/{late.name}", "interface": late.interface})
        self._recorder.emit(where, reason=reason, message=f"{late.interface}: {message}", type_=type_)


def _environment(late: plan.Latecomer, path: pathlib.Path) -> dict[str, str]:
    pod = f"K8S_POD_NAMESPACE={late.namespace};K8S_POD_NAME={late.name};K8S_POD_UID={late.uid}"
    return {
        "CNI_COMMAND": "ADD",
        # Not a container of the runtime's: freed when the namespace is found dead, as after any lost DEL.
        "CNI_CONTAINERID": f"late-{late.uid}",
        "CNI_NETNS": str(path),
        "CNI_IFNAME": late.interface,
        "CNI_ARGS": f"IgnoreUnknown=1;{pod}",
        "CNI_PATH": "",
    }
