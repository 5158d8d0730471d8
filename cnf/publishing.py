"""What a node's cnf says of itself: its FleetNode and its NodeAttachments.

One invariant: only this node's cnf writes these two, and writes them only when they differ from what it wrote before.
"""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
from collections.abc import Callable

from fleetboard.kube import client as kube_client
from fleetboard.model import fleet, meta, names, resource

MANAGER = "cnf"
AGAIN_S = 30.0
WIREGUARD_OVERHEAD = {4: 60, 6: 80}
"""Bytes of IP, UDP and WireGuard headers around a packet, per family of the underlay."""
LOW_WATER = 8
"""With fewer free addresses than this a node asks for a further block before it runs out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What a FleetNode's status is made of."""

    public_key: str
    endpoint: str
    mtu: int
    used: int
    free: int
    blocks: int
    ready: str | None
    """None when all is well, else why not."""


def wanted_blocks(*, held: int, free: int) -> int:
    """Return how many blocks a node wants: one more than it holds when its addresses run low."""
    return held + 1 if held == 0 or free < LOW_WATER else held


def render_status(report: Report, previous: list[meta.Condition], *, version: str, now: str) -> fleet.FleetNodeStatus:
    """Render a FleetNode's status."""
    condition = meta.Condition(
        type="Ready",
        status="True" if report.ready is None else "False",
        reason="Ready" if report.ready is None else "NotReady",
        message=report.ready or "addresses, tunnel and services are in place",
    )
    return fleet.FleetNodeStatus(
        public_key=report.public_key,
        endpoint=report.endpoint,
        mtu=report.mtu,
        addresses_used=report.used,
        addresses_free=report.free,
        blocks_wanted=wanted_blocks(held=report.blocks, free=report.free),
        version=version,
        conditions=meta.set_condition(previous, condition, now=now),
    )


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
    ) -> None:
        self._client, self._namespace, self._node, self._version = client, namespace, node, version
        self._report, self._attachments, self._known = report, attachments, known
        self._published: list[fleet.Attachment] | None = None

    def reconcile_node(self, _key: str) -> float:
        """Make FleetNode and its status true."""
        known = self._known()
        if known is None:
            fresh = {"metadata": {"name": self._node, "namespace": self._namespace}}
            known = self._client.apply(resource.FLEET_NODES, fresh, manager=MANAGER)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        status = render_status(self._report(), known.status.conditions, version=self._version, now=now)
        if status != known.status:
            body = fleet.FleetNode(metadata=self._meta(), status=status)
            self._client.apply(resource.FLEET_NODES, body, manager=MANAGER, subresource="status")
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
