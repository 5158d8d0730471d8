"""The fleetboard.io objects: what each holds and who alone writes it (DESIGN.md section 2).

One invariant: every field has one writer. Addresses are strings here because this is the wire; ``addresses``
parses them once at the edge.
"""

from __future__ import annotations

import msgspec

from fleetboard.model import meta, names

API_VERSION = f"{names.GROUP}/{names.VERSION}"


class _Wire(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Wire options of every struct below."""


# --- Peer: one for each cluster and one (named "hub") for the hub, in the hub's clusterset namespace. syncer mirrors
# them into the child's fleetboard-system, so that cnf and crossdns need no access to the hub.


class PeerSpec(_Wire, frozen=True, kw_only=True):
    """Written by ``fleetboard token create``."""

    cluster: str
    export_namespaces: list[str] = msgspec.field(default_factory=lambda: ["*"])


class PeerHealth(_Wire, frozen=True, kw_only=True):
    """Written by cnf-hub: what its probe inside the tunnel saw."""

    reachable: bool = True
    since: str = ""
    last_handshake: str = ""


class PeerStatus(_Wire, frozen=True, kw_only=True):
    """Written by syncer-hub; ``health``, ``public_key``, ``epoch`` and ``leader_address`` by cnf-hub."""

    fleet_cidrs: list[str] = []
    vip_cidrs: list[str] = []
    mtu: int = 0
    cluster_cidrs: list[str] = []
    cluster_uid: str = ""
    public_key: str = ""
    """The hub's WireGuard key, base64; on the hub's Peer only."""
    endpoints: list[str] = []
    """Where children reach the hub's WireGuard, ``host:port``; on the hub's Peer only."""
    health: PeerHealth | None = None
    epoch: int = 0
    conditions: list[meta.Condition] = []


class Peer(_Wire, frozen=True, kw_only=True):
    """A member of the clusterset as the hub admitted it."""

    api_version: str = API_VERSION
    kind: str = "Peer"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: PeerSpec
    status: PeerStatus = PeerStatus()

    @property
    def is_reachable(self) -> bool:
        """Whether the hub's probe gets answers from it; one that was never probed counts as reachable."""
        return self.status.health is None or self.status.health.reachable


# --- PeerReport: in the member's namespace on the hub, named after the cluster; and, with conditions, in the child.


class ReportedNode(_Wire, frozen=True, kw_only=True):
    """One cnf of the member that may keep a session with the hub."""

    name: str
    public_key: str
    addresses: list[str] = []
    """The node's fleet addresses (first of its first block, per family): source of its session."""
    mtu: int = 0
    leader: bool = False
    standby: bool = False


class PeerReportSpec(_Wire, frozen=True, kw_only=True):
    """Written by the child's syncer."""

    cluster: str
    cluster_uid: str = ""
    """UID of the child's kube-system namespace: tells two clusters under one name apart."""
    network_cidrs: list[str] = []
    """Pod, service and node networks as far as the child knows them: checked for overlap with the fleet CIDR."""
    blocks_wanted: int = 1
    """How many cluster blocks (``clusterCidrs``, per family) the child needs: each further one is doubled."""
    nodes: list[ReportedNode] = []
    epoch: int = 0
    """Transitions of the child's leader Lease: a lower one is refused."""
    versions: dict[str, str] = {}
    heartbeat: str = ""


class PeerReportStatus(_Wire, frozen=True, kw_only=True):
    """Written by the child's syncer on the child's own copy: how joining went."""

    conditions: list[meta.Condition] = []


class PeerReport(_Wire, frozen=True, kw_only=True):
    """What a member says of itself."""

    api_version: str = API_VERSION
    kind: str = "PeerReport"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: PeerReportSpec
    status: PeerReportStatus = PeerReportStatus()


# --- ExportedService: in the member's namespace on the hub, named <namespace>.<service>.


class ServicePort(_Wire, frozen=True, kw_only=True):
    """A port as importers see it (KEP-1645: name, protocol, port, appProtocol)."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str = ""

    @property
    def identity(self) -> tuple[str, str, int]:
        """What a client reaches it by: two ports that agree in it take each other's traffic.

        Not the application protocol, which no packet shows: a cluster that begins to declare one must not take the
        others' endpoints out of service (KEP-1645: a new conflict disturbs no traffic).
        """
        return self.name, self.protocol, self.port


class ExportedServiceSpec(_Wire, frozen=True, kw_only=True):
    """Written by the child's syncer."""

    namespace: str
    name: str
    type: str = "ClusterSetIP"
    ports: list[ServicePort] = []
    session_affinity: str = "None"
    session_affinity_timeout_s: int = 0
    internal_traffic_policy: str = ""
    """``Cluster`` or ``Local``; empty from an exporter that doesn't know the field, which means Cluster."""
    traffic_distribution: str = ""
    """``PreferClose``, ``PreferSameZone``, ``PreferSameNode``, or empty when the Service asks for none."""
    ip_families: list[str] = []
    """The Service's own; empty from an exporter that doesn't know the field."""
    exported_labels: dict[str, str] = {}
    exported_annotations: dict[str, str] = {}
    export_uid: str = ""
    export_created: str = ""
    """creationTimestamp of the ServiceExport; shown, not believed (the hub's ledger decides)."""


class ExportedService(_Wire, frozen=True, kw_only=True):
    """One cluster's export of one service."""

    api_version: str = API_VERSION
    kind: str = "ExportedService"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: ExportedServiceSpec


# --- FleetService: in the hub's clusterset namespace, named <namespace>.<service>; mirrored into the child's
# fleetboard-system by syncer.


class Constituent(_Wire, frozen=True, kw_only=True):
    """One exporting cluster of a FleetService, oldest first."""

    cluster: str
    ports: list[ServicePort] = []
    """Without those that the service has no room for."""
    ports_left_out: str = ""
    """Which those are and why, as a sentence; empty when there are none."""
    export_uid: str = ""
    first_seen: str = ""


class FleetServiceSpec(_Wire, frozen=True, kw_only=True):
    """Written by syncer-hub: the merge of all exports of one name."""

    namespace: str
    name: str
    type: str = "ClusterSetIP"
    vips: list[str] = []
    ports: list[ServicePort] = []
    session_affinity: str = "None"
    session_affinity_timeout_s: int = 0
    internal_traffic_policy: str = ""
    """``Cluster`` or ``Local`` (only endpoints of the client's own node); empty is Cluster."""
    traffic_distribution: str = ""
    """Which endpoints to prefer: ``PreferClose``, ``PreferSameZone``, ``PreferSameNode``; empty is none."""
    ip_families: list[str] = []
    """``IPv4`` and ``IPv6`` in the order of ``vips``; empty from a hub that doesn't know the field."""
    exported_labels: dict[str, str] = {}
    exported_annotations: dict[str, str] = {}
    constituents: list[Constituent] = []
    conflicts: dict[str, str] = {}
    """Reason (PortConflict, ...) to message; empty when all exports agree."""
    merge_version: int = 1


class FleetService(_Wire, frozen=True, kw_only=True):
    """One service of the clusterset."""

    api_version: str = API_VERSION
    kind: str = "FleetService"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: FleetServiceSpec


# --- Claim: its name is the address it claims, so creating it is the allocation.


class ClaimSpec(_Wire, frozen=True, kw_only=True):
    """Written by whoever allocates."""

    cidr: str
    purpose: str
    """``vip``, ``cluster-block`` or ``node-block``."""
    owner: str
    """``<namespace>.<service>``, cluster name or node name."""
    released: str = ""
    """When the owner gave it back: until 24 h later only the same owner gets it again."""
    returned: bool = False
    """With ``released``: its owner lives and had emptied it; another may have it at once where nothing else is left."""


class Claim(_Wire, frozen=True, kw_only=True):
    """A block or address that has an owner."""

    api_version: str = API_VERSION
    kind: str = "Claim"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: ClaimSpec


# --- FleetNode: in the child's fleetboard-system, one a node, named after it.


class FleetNodeSpec(_Wire, frozen=True, kw_only=True):
    """Written by the cnf leader: blocks, in the order they were given. None is taken but what the node has returned."""

    blocks: list[str] = []


class Leading(_Wire, frozen=True, kw_only=True):
    """What the node that carries the cluster's traffic sees of the hub, by its own probe inside the tunnel."""

    epoch: int = 0
    """Of its leadership: one that was replaced and could not say so is told by a lower one."""
    hub_reachable: bool = True


class FleetNodeStatus(_Wire, frozen=True, kw_only=True):
    """Written by that node's cnf."""

    public_key: str = ""
    endpoint: str = ""
    """``address:port`` of cnf's WireGuard in the cluster's own network."""
    mtu: int = 0
    """Largest tunnel MTU the node's underlay carries."""
    addresses_used: int = 0
    addresses_free: int = 0
    blocks_wanted: int = 1
    """How many blocks the node wants, those it has returned not counted."""
    blocks_returned: list[str] = []
    """Blocks of ``spec.blocks`` that are empty and that the node uses no more: the leader may take them."""
    blocks_missing: list[str] = []
    """Blocks that the node gives addresses of, or has pods in, and that ``spec.blocks`` lacks: its first one first."""
    leading: Leading | None = None
    """Only while the node leads."""
    version: str = ""
    conditions: list[meta.Condition] = []


class FleetNode(_Wire, frozen=True, kw_only=True):
    """A node that runs cnf."""

    api_version: str = API_VERSION
    kind: str = "FleetNode"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: FleetNodeSpec = FleetNodeSpec()
    status: FleetNodeStatus = FleetNodeStatus()


# --- NodeAttachments: in the child's fleetboard-system, one a node, named after it.


class Attachment(_Wire, frozen=True, kw_only=True):
    """One pod interface that cnf wired."""

    pod_uid: str
    pod_namespace: str
    pod_name: str
    interface: str
    addresses: list[str] = []


class NodeAttachments(_Wire, frozen=True, kw_only=True):
    """Which pod holds which fleet address: written by the node's cnf, believed by syncer."""

    api_version: str = API_VERSION
    kind: str = "NodeAttachments"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    attachments: list[Attachment] = []
