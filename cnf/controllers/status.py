"""What a node's cnf says of itself: its FleetNode and its NodeAttachments.

One invariant: only this node's cnf writes these two, and writes them only when they differ from what it wrote before.
"""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import time
from collections.abc import Callable

import msgspec

from cnf.attach import ipam, service
from cnf.attach.node_network import demand
from fleetboard.kube import client as kube_client
from fleetboard.kube import errors
from fleetboard.model import fleet, meta, names, resource

MANAGER = "cnf"
AGAIN_S = 30.0
WIREGUARD_OVERHEAD = {4: 60, 6: 80}
"""Bytes of IP, UDP and WireGuard headers around a packet, per family of the underlay."""
CHANGED_S = 1.0
"""When to look again at a FleetNode that has changed meanwhile, should nobody tell us."""
COUNTS_S = 30.0
"""How old the count of addresses may be: every node's cnf hears of every change of any node."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What a FleetNode's status is made of."""

    public_key: str
    endpoint: str
    mtu: int
    used: int
    free: int
    wanted: int
    """How many blocks, those returned not counted."""
    returned: list[str]
    held: list[str]
    """The blocks that are the node's, whatever the API says, its first one first."""
    ready: str | None
    """None when all is well, else why not."""
    exhausted: str = ""
    """Why a block that is wanted can't come, else nothing."""
    refused: str = ""
    """The services that the kernel refuses, with port and reason, else nothing."""
    leading: fleet.Leading | None = None
    """What the leader sees of the hub; None on every other node."""


def read_addresses(cni: service.CniService) -> tuple[ipam.Usage, int, list[str], list[str]]:
    """Return the node's usage, how many blocks it wants, which it has returned, and which it holds."""
    usage, known = cni.usage(), cni.network()
    given = len(known.active_blocks) if known is not None else 0
    returned = [str(block) for block in known.returned] if known is not None else []
    wanted = demand.wanted_blocks(held=given, free=usage.free, waiting=cni.waiting)
    return usage, wanted, returned, [str(block) for block in cni.held_blocks()]


def render_status(report: Report, known: fleet.FleetNode, *, version: str, now: str) -> fleet.FleetNodeStatus:
    """Render the status of the FleetNode ``known``."""
    ready = meta.Condition(
        type="Ready",
        status="True" if report.ready is None else "False",
        reason="Ready" if report.ready is None else "NotReady",
        message=report.ready or "addresses, tunnel and services are in place",
    )
    room = meta.Condition(
        type="AddressesAvailable",
        status="False" if report.exhausted else "True",
        reason="ClusterBlockExhausted" if report.exhausted else "Available",
        message=report.exhausted or "the node has free addresses, or a further block to come",
    )
    served = meta.Condition(
        type="ServicesServed",
        status="False" if report.refused else "True",
        reason="RefusedByKernel" if report.refused else "Served",
        message=f"the node's kernel refuses {report.refused}" if report.refused else "no service is refused",
    )
    conditions = known.status.conditions
    for condition in (ready, room, served):
        conditions = meta.set_condition(conditions, condition, now=now)
    return fleet.FleetNodeStatus(
        public_key=report.public_key,
        endpoint=report.endpoint,
        mtu=report.mtu,
        addresses_used=report.used,
        addresses_free=report.free,
        blocks_wanted=report.wanted,
        blocks_returned=report.returned,
        blocks_missing=[block for block in report.held if block not in known.spec.blocks],
        leading=report.leading,
        version=version,
        conditions=conditions,
    )


def is_pressing(status: fleet.FleetNodeStatus, shown: fleet.FleetNodeStatus) -> bool:
    """Say whether ``status`` differs from what is shown in more than its counts."""
    counts = {"addresses_used": shown.addresses_used, "addresses_free": shown.addresses_free}
    return msgspec.structs.replace(status, **counts) != shown


def underlay_mtu(pod_ip: str, *, sysfs: pathlib.Path = pathlib.Path("/sys/class/net")) -> int:
    """Return the largest tunnel MTU that cnf's own interface carries, 0 when that can't be read."""
    try:
        mtu = int((sysfs / "eth0" / "mtu").read_text())
    except (OSError, ValueError):
        return 0
    return mtu - WIREGUARD_OVERHEAD[6 if ":" in pod_ip else 4]


def endpoint(pod_ip: str) -> str:
    """Return where other nodes reach this one's WireGuard."""
    return f"[{pod_ip}]:{names.TUNNEL_PORT}" if ":" in pod_ip else f"{pod_ip}:{names.TUNNEL_PORT}"


class Publishing:
    """Reconciles both objects; ``report`` and ``attachments`` say what is true now."""

    def __init__(
        self,
        client: kube_client.Client,
        *,
        namespace: str,
        node: str,
        version: str,
        report: Callable[[], Report],
        attachments: Callable[[], list[fleet.Attachment]],
        known: Callable[[], fleet.FleetNode | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._namespace, self._node, self._version = client, namespace, node, version
        self._report, self._attachments, self._known = report, attachments, known
        self._published: list[fleet.Attachment] | None = None
        self._clock, self._counted = clock, float("-inf")

    def reconcile_node(self, _key: str) -> float:
        """Make FleetNode and its status true."""
        known = self._known()
        if known is None:
            fresh = {"metadata": {"name": self._node, "namespace": self._namespace}}
            known = self._client.apply(resource.FLEET_NODES, fresh, manager=MANAGER)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        status = render_status(self._report(), known, version=self._version, now=now)
        left_s = self._counted + COUNTS_S - self._clock()
        if status == known.status or (left_s > 0 and not is_pressing(status, known.status)):
            return AGAIN_S if status == known.status else left_s
        # At the version it was made of: one that comes late would offer blocks that are in use again by then.
        metadata = msgspec.structs.replace(self._meta(), resource_version=known.metadata.resource_version)
        body = fleet.FleetNode(metadata=metadata, status=status)
        try:
            self._client.apply(resource.FLEET_NODES, body, manager=MANAGER, subresource="status", keep_version=True)
        except errors.ConflictError:
            return CHANGED_S
        self._counted = self._clock()
        return AGAIN_S

    def reconcile_attachments(self, _key: str) -> float:
        """Make NodeAttachments true."""
        current = sorted(self._attachments(), key=lambda item: (item.pod_uid, item.interface))
        if current != self._published:
            body = fleet.NodeAttachments(metadata=self._meta(), attachments=current)
            self._client.apply(resource.NODE_ATTACHMENTS, body, manager=MANAGER)
            self._published = current
        else:
            # Somebody may have deleted it: cheap to notice, and syncer would withdraw every endpoint of this node.
            found = self._client.find(resource.NODE_ATTACHMENTS, self._node, self._namespace)
            if found is None or sorted(found.attachments, key=lambda item: (item.pod_uid, item.interface)) != current:
                self._published = None
                return 0.05
        return AGAIN_S

    def _meta(self) -> meta.ObjectMeta:
        return meta.ObjectMeta(name=self._node, namespace=self._namespace)
