"""Attaches latecomers: pods that run without their attachment because Multus came after them.

Invariant: a namespace is wired for a pod only when it holds the pod's primary address, which is unique on a node.
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
from fleetboard.model import core, fleet, meta, names, resource
from fleetboard.model.addresses import Address

log = logging.getLogger(__name__)

RESYNC_S = 10.0
"""When to try again the pods whose attachment failed; a pod of this node that changes is an event."""
CONFIRM_S = 2.0
"""When to look again for a pod without its attachment: its own ADD may be under way."""
_CONFIG = {"cniVersion": "1.0.0", "name": names.NETWORK, "type": "fleetboard"}


class LatecomerController:
    """Finds latecomers and attaches them, as the CNI call that never came would have.

    Attributes:
        waiting: Pods without their attachment as of the last look.
        attached: How many were attached since the start.
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
        self.attached = 0

    def reconcile(self, _key: str) -> float:
        """Attach the pods that lacked their attachment at two looks in a row."""
        latecomers = plan.plan_latecomers(self._pods(), self._attachments())
        confirmed = [latecomer for latecomer in latecomers if latecomer in self._suspects]
        self._suspects = frozenset(latecomers)
        for latecomer in confirmed:
            self._attach(latecomer)
        self.waiting = len(latecomers)
        # Pods whose attachment fails are tried seldom: each attempt enters every namespace of the node.
        return CONFIRM_S if len(latecomers) > len(confirmed) else RESYNC_S

    def _attach(self, latecomer: plan.Latecomer) -> None:
        namespace = self._find_namespace(ipaddress.ip_address(latecomer.address))
        if namespace is None:
            self._report(
                latecomer,
                "Warning",
                "NoFleetInterface",
                "runs without its interface, and its network namespace was not found",
            )
            return
        path, opened = namespace
        with opened:
            response = self._call(frames.Request(_environment(latecomer, path), msgspec.json.encode(_CONFIG), opened))
        if response.code == 0:
            self.attached += 1
            self._report(latecomer, "Normal", "FleetInterfaceAdded", "started without its interface, and has it now")
        else:
            answer = response.stdout.decode(errors="replace")
            self._report(latecomer, "Warning", "NoFleetInterface", f"runs without its interface: {answer}")

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
                log.debug("could not enter a network namespace", extra={"path": str(path)})
            opened.close()
        return None

    def _report(self, latecomer: plan.Latecomer, type_: events.EventType, reason: str, message: str) -> None:
        pod = meta.ObjectMeta(name=latecomer.name, namespace=latecomer.namespace, uid=latecomer.uid)
        reference = events.reference(resource.PODS, pod)
        log.warning(
            "%s", message, extra={"pod": f"{latecomer.namespace}/{latecomer.name}", "interface": latecomer.interface}
        )
        self._recorder.emit(reference, reason=reason, message=f"{latecomer.interface}: {message}", type_=type_)


def _environment(latecomer: plan.Latecomer, path: pathlib.Path) -> dict[str, str]:
    pod = f"K8S_POD_NAMESPACE={latecomer.namespace};K8S_POD_NAME={latecomer.name};K8S_POD_UID={latecomer.uid}"
    return {
        "CNI_COMMAND": "ADD",
        # No container of the runtime: freed when its namespace is gone, as after any lost DEL.
        "CNI_CONTAINERID": f"late-{latecomer.uid}",
        "CNI_NETNS": str(path),
        "CNI_IFNAME": latecomer.interface,
        "CNI_ARGS": f"IgnoreUnknown=1;{pod}",
        "CNI_PATH": "",
    }
