"""Decides which pods of this node are latecomers: they lack the attachment that they ask for. Pure.

Multus in thick mode removes its configuration when it stops, so a node that boots starts pods before Multus is back.
They run without their second interface, and nothing reports it. Invariant: a latecomer asks for our network, has its
primary address (so its sandbox is complete), and cnf attached nothing for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import msgspec

from fleetboard.model import core, fleet, names


class _Selection(msgspec.Struct, frozen=True):
    """One element of the annotation's JSON form (multi-network specification 1.3)."""

    name: str = ""
    interface: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Latecomer:
    """A pod that runs without its attachment."""

    namespace: str
    name: str
    uid: str
    address: str
    interface: str


def parse_selection(annotation: str) -> str | None:
    """Return the interface name that a pod's networks annotation gives our network, or None.

    An element without a name is called ``net`` and its position: the first is net1.
    """
    for position, (network, interface) in enumerate(_elements(annotation), start=1):
        if network == names.NETWORK:
            return interface or f"net{position}"
    return None


def plan_latecomers(pods: Iterable[core.Pod], attached: Iterable[fleet.Attachment]) -> list[Latecomer]:
    """Return the pods that ask for our network and have no attachment."""
    served = {(attachment.pod_namespace, attachment.pod_name) for attachment in attached}
    latecomers = []
    for pod in pods:
        meta = pod.metadata
        interface = parse_selection(meta.annotations.get(names.ANNOTATION_NETWORKS, ""))
        complete = pod.status.phase in ("Pending", "Running") and pod.status.pod_ip and not pod.spec.host_network
        if interface and complete and not meta.deletion_timestamp and (meta.namespace, meta.name) not in served:
            latecomers.append(Latecomer(meta.namespace, meta.name, meta.uid, pod.status.pod_ip, interface))
    return sorted(latecomers, key=lambda latecomer: (latecomer.namespace, latecomer.name))


def _elements(annotation: str) -> list[tuple[str, str]]:
    text = annotation.strip()
    if text.startswith(("[", "{")):
        try:
            selections = msgspec.json.decode(text, type=list[_Selection])
        except msgspec.MsgspecError:
            return []
        return [(selection.name, selection.interface) for selection in selections]
    pairs = []
    for element in text.split(","):
        path, _, interface = element.strip().partition("@")
        pairs.append((path.rpartition("/")[2], interface))
    return pairs
