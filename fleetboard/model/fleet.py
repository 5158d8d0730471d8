"""The fleetboard.io objects: their fields, and the one writer of each (docs/design.md section 2).

Addresses are strings here, as in the API; ``addresses`` and ``trust`` parse them once.
"""

from __future__ import annotations

import msgspec

from fleetboard.model import meta, names
from fleetboard.model.meta import ApiStruct

API_VERSION = f"{names.GROUP}/{names.VERSION}"


class PeerSpec(ApiStruct, frozen=True, kw_only=True):
    """Written by ``fleetboard token create``; of the hub's own Peer, by syncer-hub."""

    cluster: str
    export_namespaces: list[str] = msgspec.field(default_factory=lambda: ["*"])


class PeerHealth(ApiStruct, frozen=True, kw_only=True):
    """Written by the relay: the result of its probe inside the tunnel."""

    reachable: bool = True
    since: str = ""


class PeerStatus(ApiStruct, frozen=True, kw_only=True):
    """Written by syncer-hub, except ``health`` and, on the hub's own Peer, ``public_key`` and ``endpoints``.

    Those the relay writes.
    """

    fleet_cidrs: list[str] = []
    vip_cidrs: list[str] = []
    mtu: int = 0
    cluster_cidrs: list[str] = []
    cluster_uid: str = ""
    public_key: str = ""
    """The relay's WireGuard key, base64; on the hub's Peer only."""
    endpoints: list[str] = []
    """Where members reach the relay's WireGuard, ``host:port``; on the hub's Peer only."""
    health: PeerHealth | None = None
    conditions: list[meta.Condition] = []


class Peer(ApiStruct, frozen=True, kw_only=True):
    """A member of the clusterset as the hub admitted it; one more, named "hub", stands for the hub.

    In the clusterset's namespace on the hub. syncer copies them to fleetboard-system in the member, so that cnf and
    crossdns need no access to the hub. ``token create`` sets the annotation ``fleetboard.io/bootstrap``, and syncer-hub
    removes it.
    """

    api_version: str = API_VERSION
    kind: str = "Peer"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: PeerSpec
    status: PeerStatus = PeerStatus()

    @property
    def is_reachable(self) -> bool:
        """Whether the relay's probe gets answers from it; one that was never probed counts as reachable."""
        return self.status.health is None or self.status.health.reachable


class ReportedNode(ApiStruct, frozen=True, kw_only=True):
    """One node of the member that may keep a session with the relay."""

    name: str
    public_key: str
    addresses: list[str] = []
    """The node's fleet addresses, the first of its first block in each family: the source of its session."""
    mtu: int = 0
    leader: bool = False
    standby: bool = False


class PeerReportSpec(ApiStruct, frozen=True, kw_only=True):
    """Written by the member's syncer."""

    cluster: str
    cluster_uid: str = ""
    """UID of the member's kube-system namespace: distinguishes two clusters of one name."""
    network_cidrs: list[str] = []
    """Pod, service and node networks that the member knows of, to be checked for overlap with the fleet CIDR."""
    blocks_wanted: int = 1
    """How many cluster blocks (``clusterCidrs``, per family) the member needs; each further one is twice as large."""
    nodes: list[ReportedNode] = []
    epoch: int = 0
    """``leaseTransitions`` of the member's leader Lease: a lower epoch is refused."""
    versions: dict[str, str] = {}
    heartbeat: str = ""


class PeerReportStatus(ApiStruct, frozen=True, kw_only=True):
    """Written by the member's syncer on the member's own copy: the progress of joining."""

    conditions: list[meta.Condition] = []


class PeerReport(ApiStruct, frozen=True, kw_only=True):
    """A member's report of itself, in its namespace on the hub and, with conditions, in the member; named after it."""

    api_version: str = API_VERSION
    kind: str = "PeerReport"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: PeerReportSpec
    status: PeerReportStatus = PeerReportStatus()


class ServicePort(ApiStruct, frozen=True, kw_only=True):
    """A port as importers see it (KEP-1645: name, protocol, port, appProtocol)."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str = ""

    @property
    def identity(self) -> tuple[str, str, int]:
        """What a client addresses: two ports of the same identity can take each other's traffic.

        The application protocol is not part of it, since no packet shows it: a cluster that begins to declare one must
        not take the others' endpoints out of service (KEP-1645: a new conflict disturbs no traffic).
        """
        return self.name, self.protocol, self.port


class ExportedServiceSpec(ApiStruct, frozen=True, kw_only=True):
    """Written by the member's syncer."""

    namespace: str
    name: str
    type: str = "ClusterSetIP"
    ports: list[ServicePort] = []
    session_affinity: str = "None"
    session_affinity_timeout_s: int = 0
    internal_traffic_policy: str = ""
    """``Cluster`` or ``Local``; empty, from an exporter that doesn't know the field, means Cluster."""
    traffic_distribution: str = ""
    """``PreferClose``, ``PreferSameZone``, ``PreferSameNode``, or empty when the Service asks for none."""
    ip_families: list[str] = []
    """The Service's own; empty from an exporter that doesn't know the field."""
    exported_labels: dict[str, str] = {}
    exported_annotations: dict[str, str] = {}
    export_uid: str = ""
    export_created: str = ""
    """creationTimestamp of the ServiceExport; only shown (the hub's precedence decides)."""


class ExportedService(ApiStruct, frozen=True, kw_only=True):
    """One cluster's export of a service: in the member's namespace on the hub, named ``<namespace>.<service>``."""

    api_version: str = API_VERSION
    kind: str = "ExportedService"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: ExportedServiceSpec


class Constituent(ApiStruct, frozen=True, kw_only=True):
    """One exporting cluster of a FleetService, oldest first."""

    cluster: str
    ports: list[ServicePort] = []
    """Without the ports that the service has no room for."""
    ports_left_out: str = ""
    """A sentence on the ports left out, and why; empty when there are none."""
    export_uid: str = ""
    first_seen: str = ""


class FleetServiceSpec(ApiStruct, frozen=True, kw_only=True):
    """Written by syncer-hub: the merge of all exports of one name."""

    namespace: str
    name: str
    type: str = "ClusterSetIP"
    vips: list[str] = []
    ports: list[ServicePort] = []
    session_affinity: str = "None"
    session_affinity_timeout_s: int = 0
    internal_traffic_policy: str = ""
    """``Cluster`` or ``Local`` (only endpoints of the client's own node); empty means Cluster."""
    traffic_distribution: str = ""
    """Which endpoints to prefer: ``PreferClose``, ``PreferSameZone`` or ``PreferSameNode``; empty means none."""
    ip_families: list[str] = []
    """``IPv4`` and ``IPv6`` in the order of ``vips``; empty from a hub that doesn't know the field."""
    exported_labels: dict[str, str] = {}
    exported_annotations: dict[str, str] = {}
    constituents: list[Constituent] = []
    conflicts: dict[str, str] = {}
    """Reason (PortConflict, ...) to message; empty when all exports agree."""
    merge_version: int = 1


class FleetService(ApiStruct, frozen=True, kw_only=True):
    """One service of the clusterset, in its namespace on the hub; syncer copies it to each member."""

    api_version: str = API_VERSION
    kind: str = "FleetService"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: FleetServiceSpec


class ClaimSpec(ApiStruct, frozen=True, kw_only=True):
    """Written by the allocator: syncer-hub on the hub, the leader's cnf in a member."""

    cidr: str
    purpose: str
    """``vip``, ``cluster-block`` or ``node-block``."""
    owner: str
    """``<namespace>.<service>``, cluster name or node name."""
    released: str = ""
    """When the owner released it: within 24 h only the same owner gets it again."""
    returned: bool = False
    """With ``released``: its owner lives and had emptied it; another may get it at once when no other is left."""


class Claim(ApiStruct, frozen=True, kw_only=True):
    """A block or address that has an owner. Its name is the address or block, so to create it is the allocation."""

    api_version: str = API_VERSION
    kind: str = "Claim"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: ClaimSpec


class FleetNodeSpec(ApiStruct, frozen=True, kw_only=True):
    """Written by the leader's cnf: blocks, in order of allocation. Only blocks that the node returned are removed."""

    blocks: list[str] = []


class Leading(ApiStruct, frozen=True, kw_only=True):
    """What the leader sees of the relay, by its own probe inside the tunnel."""

    epoch: int = 0
    """Epoch of its term; a node that lost the lead and could not report that has a lower one."""
    hub_reachable: bool = True


class FleetNodeStatus(ApiStruct, frozen=True, kw_only=True):
    """Written by that node's cnf."""

    public_key: str = ""
    endpoint: str = ""
    """``address:port`` of cnf's WireGuard in the cluster's own network."""
    mtu: int = 0
    """Largest tunnel MTU the node's underlay carries."""
    addresses_used: int = 0
    addresses_free: int = 0
    blocks_wanted: int = 1
    """How many blocks the node wants, without those it has returned."""
    blocks_returned: list[str] = []
    """Empty blocks of ``spec.blocks`` that the node no longer uses: the leader may release them."""
    blocks_missing: list[str] = []
    """Blocks that the node allocates from, or has pods in, and that ``spec.blocks`` lacks: its first block first."""
    leading: Leading | None = None
    """Set only while the node leads."""
    version: str = ""
    conditions: list[meta.Condition] = []


class FleetNode(ApiStruct, frozen=True, kw_only=True):
    """A node that runs cnf: in fleetboard-system of the member, named after the node."""

    api_version: str = API_VERSION
    kind: str = "FleetNode"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: FleetNodeSpec = FleetNodeSpec()
    status: FleetNodeStatus = FleetNodeStatus()


class Attachment(ApiStruct, frozen=True, kw_only=True):
    """One pod's attachment."""

    pod_uid: str
    pod_namespace: str
    pod_name: str
    interface: str
    addresses: list[str] = []


class NodeAttachments(ApiStruct, frozen=True, kw_only=True):
    """Which pod has which fleet address: written by the node's cnf, read by syncer."""

    api_version: str = API_VERSION
    kind: str = "NodeAttachments"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    attachments: list[Attachment] = []
