"""Writes what a node's agent reports: the status of its FleetNode, and its NodeAttachments.

This node's agent alone writes these two, and only when they differ from what it wrote before.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable

import msgspec

from cnf.attach import ipam, service
from cnf.attach.node_network import demand
from fleetboard.kube import client as kube_client
from fleetboard.kube import errors
from fleetboard.model import fleet, meta, names, resource, times

FIELD_MANAGER = "cnf"
RESYNC_S = 30.0
"""When to compare again without an event.

Readiness, refused services and the end of a quarantine raise none, and somebody may have deleted the NodeAttachments.
"""
WIREGUARD_OVERHEAD = {4: 60, 6: 80}
"""Bytes of IP, UDP and WireGuard headers around a packet, per family of the underlay."""
CHANGED_S = 1.0
"""When to look again at a FleetNode that changed meanwhile, should no event arrive."""
COUNTS_S = 30.0
"""How old the count of addresses may get: every node's agent receives every change of any node."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """Values that a FleetNode's status is rendered from."""

    public_key: str
    endpoint: str
    mtu: int
    used: int
    free: int
    wanted: int
    """How many blocks the node wants, without those that it returned."""
    returned: list[str]
    held: list[str]
    """The blocks that the node holds, whatever the API says, its first one first."""
    unready_reason: str | None
    """Why the node is not ready, else None."""
    exhausted: str = ""
    """Why no wanted block comes, else empty."""
    refused: str = ""
    """The services that the kernel refuses, with port and reason, else empty."""
    leading: fleet.Leading | None = None
    """Whether the leader reaches the relay; None on every other node."""


def read_addresses(cni: service.CniService) -> tuple[ipam.Usage, int, list[str], list[str]]:
    """Return the node's usage, how many blocks it wants, which it has returned, and which it holds."""
    usage, node_network = cni.usage(), cni.network()
    given = len(node_network.active_blocks) if node_network is not None else 0
    returned = [str(block) for block in node_network.returned] if node_network is not None else []
    wanted = demand.wanted_blocks(held=given, free=usage.free, waiting=cni.waiting)
    return usage, wanted, returned, [str(block) for block in cni.held_blocks()]


def render_status(report: Report, fleet_node: fleet.FleetNode, *, version: str, now: str) -> fleet.FleetNodeStatus:
    """Render the status of the FleetNode ``fleet_node``."""
    ready = meta.Condition(
        type="Ready",
        status="True" if report.unready_reason is None else "False",
        reason="Ready" if report.unready_reason is None else "NotReady",
        message=report.unready_reason or "addresses, tunnel and services are in place",
    )
    room = meta.Condition(
        type="AddressesAvailable",
        status="False" if report.exhausted else "True",
        reason="ClusterBlockExhausted" if report.exhausted else "Available",
        message=report.exhausted or "the node has free addresses, or a further block is coming",
    )
    served = meta.Condition(
        type="ServicesServed",
        status="False" if report.refused else "True",
        reason="RefusedByKernel" if report.refused else "Served",
        message=f"the node's kernel refuses {report.refused}" if report.refused else "the kernel accepts all services",
    )
    conditions = fleet_node.status.conditions
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
        blocks_missing=[block for block in report.held if block not in fleet_node.spec.blocks],
        leading=report.leading,
        version=version,
        conditions=conditions,
    )


def differs_beyond_counts(status: fleet.FleetNodeStatus, shown: fleet.FleetNodeStatus) -> bool:
    """Return whether ``status`` differs from ``shown`` in more than its counts."""
    counts = {"addresses_used": shown.addresses_used, "addresses_free": shown.addresses_free}
    return msgspec.structs.replace(status, **counts) != shown


def largest_tunnel_mtu(pod_ip: str, *, sysfs: pathlib.Path = pathlib.Path("/sys/class/net")) -> int:
    """Return the largest MTU inside the tunnel that the pod's own interface carries; 0 when that can't be read."""
    try:
        mtu = int((sysfs / "eth0" / "mtu").read_text())
    except (OSError, ValueError):
        return 0
    return mtu - WIREGUARD_OVERHEAD[6 if ":" in pod_ip else 4]


def endpoint(pod_ip: str) -> str:
    """Return where other nodes reach this one's WireGuard."""
    return f"[{pod_ip}]:{names.TUNNEL_PORT}" if ":" in pod_ip else f"{pod_ip}:{names.TUNNEL_PORT}"


class StatusController:
    """Reconciles both objects; ``report`` and ``attachments`` return what is true now."""

    def __init__(
        self,
        client: kube_client.Client,
        *,
        namespace: str,
        node: str,
        version: str,
        report: Callable[[], Report],
        attachments: Callable[[], list[fleet.Attachment]],
        fleet_node: Callable[[], fleet.FleetNode | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._namespace, self._node, self._version = client, namespace, node, version
        self._report, self._attachments, self._fleet_node = report, attachments, fleet_node
        self._published: list[fleet.Attachment] | None = None
        self._clock, self._counted = clock, float("-inf")

    def reconcile_node(self, _key: str) -> float:
        """Write the FleetNode's status, and create the FleetNode when it is missing."""
        fleet_node = self._fleet_node()
        if fleet_node is None:
            fresh = {"metadata": {"name": self._node, "namespace": self._namespace}}
            fleet_node = self._client.apply(resource.FLEET_NODES, fresh, manager=FIELD_MANAGER)
        now = times.now()
        status = render_status(self._report(), fleet_node, version=self._version, now=now)
        left_s = self._counted + COUNTS_S - self._clock()
        if status == fleet_node.status or (left_s > 0 and not differs_beyond_counts(status, fleet_node.status)):
            return RESYNC_S if status == fleet_node.status else left_s
        # At the version that was read: a late write would offer blocks that are in use again by then.
        metadata = msgspec.structs.replace(self._meta(), resource_version=fleet_node.metadata.resource_version)
        body = fleet.FleetNode(metadata=metadata, status=status)
        try:
            self._client.apply(
                resource.FLEET_NODES, body, manager=FIELD_MANAGER, subresource="status", keep_version=True
            )
        except errors.ConflictError:
            return CHANGED_S
        self._counted = self._clock()
        return RESYNC_S

    def reconcile_attachments(self, _key: str) -> float:
        """Write the NodeAttachments."""
        current = sorted(self._attachments(), key=_order)
        if current != self._published:
            body = fleet.NodeAttachments(metadata=self._meta(), attachments=current)
            self._client.apply(resource.NODE_ATTACHMENTS, body, manager=FIELD_MANAGER)
            self._published = current
        else:
            # Somebody may have deleted it, and then syncer would withdraw every endpoint of this node.
            published = self._client.find(resource.NODE_ATTACHMENTS, self._node, self._namespace)
            if published is None or sorted(published.attachments, key=_order) != current:
                self._published = None
                return 0.05
        return RESYNC_S

    def _meta(self) -> meta.ObjectMeta:
        return meta.ObjectMeta(name=self._node, namespace=self._namespace)


def _order(attachment: fleet.Attachment) -> tuple[str, str]:
    return attachment.pod_uid, attachment.interface
