"""Kubernetes' own objects, with the fields that some part uses; any other would cost memory in every watcher."""

from __future__ import annotations

from typing import Any

import msgspec

from fleetboard.model import meta
from fleetboard.model.meta import ApiStruct

PREFER_CLOSE = "PreferClose"
PREFER_SAME_ZONE = "PreferSameZone"
PREFER_SAME_NODE = "PreferSameNode"
TRAFFIC_DISTRIBUTIONS = (PREFER_CLOSE, PREFER_SAME_ZONE, PREFER_SAME_NODE)
"""How a Service may prefer near endpoints (corev1.ServiceSpec.trafficDistribution)."""


class CoreServicePort(ApiStruct, frozen=True, kw_only=True):
    """corev1.ServicePort."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str = ""
    node_port: int = 0


class CoreClientIP(ApiStruct, frozen=True, kw_only=True):
    """corev1.ClientIPConfig."""

    timeout_seconds: int = 10800


class CoreSessionAffinityConfig(ApiStruct, frozen=True, kw_only=True):
    """corev1.SessionAffinityConfig."""

    client_ip: CoreClientIP | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(ApiStruct, frozen=True, kw_only=True):
    """corev1.ServiceSpec."""

    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    ports: list[CoreServicePort] = []
    selector: dict[str, str] = {}
    session_affinity: str = "None"
    session_affinity_config: CoreSessionAffinityConfig | None = None
    internal_traffic_policy: str = ""
    traffic_distribution: str = ""
    ip_families: list[str] = []


class Service(ApiStruct, frozen=True, kw_only=True):
    """corev1.Service."""

    api_version: str = "v1"
    kind: str = "Service"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: ServiceSpec = ServiceSpec()


class TargetRef(ApiStruct, frozen=True, kw_only=True):
    """corev1.ObjectReference of an endpoint."""

    kind: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""


class EndpointConditions(ApiStruct, frozen=True, kw_only=True):
    """discovery.k8s.io/v1 EndpointConditions; an absent ``ready`` counts as ready."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(ApiStruct, frozen=True, kw_only=True):
    """discovery.k8s.io/v1 ForZone."""

    name: str


class EndpointHints(ApiStruct, frozen=True, kw_only=True):
    """discovery.k8s.io/v1 EndpointHints: the zones whose clients should prefer the endpoint."""

    for_zones: list[ForZone] = []


class Endpoint(ApiStruct, frozen=True, kw_only=True):
    """discovery.k8s.io/v1 Endpoint."""

    addresses: list[str] = []
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    node_name: str | None = None
    target_ref: TargetRef | None = None
    zone: str | None = None
    hints: EndpointHints | None = None

    @property
    def ready(self) -> bool:
        """Whether new traffic may go there."""
        return self.conditions.ready is not False


class EndpointPort(ApiStruct, frozen=True, kw_only=True):
    """discovery.k8s.io/v1 EndpointPort: the target port, under the name of the Service's port."""

    name: str = ""
    protocol: str = "TCP"
    port: int | None = None
    app_protocol: str | None = None


class EndpointSlice(ApiStruct, frozen=True, kw_only=True):
    """discovery.k8s.io/v1 EndpointSlice."""

    api_version: str = "discovery.k8s.io/v1"
    kind: str = "EndpointSlice"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    address_type: str = "IPv4"
    # The API server writes null for an empty list.
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


class Namespace(ApiStruct, frozen=True, kw_only=True):
    """corev1.Namespace."""

    api_version: str = "v1"
    kind: str = "Namespace"
    metadata: meta.ObjectMeta = meta.ObjectMeta()


class PodSpec(ApiStruct, frozen=True, kw_only=True):
    """corev1.PodSpec."""

    host_network: bool = False
    node_name: str = ""


class PodStatus(ApiStruct, frozen=True, kw_only=True):
    """corev1.PodStatus."""

    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")


class Pod(ApiStruct, frozen=True, kw_only=True):
    """corev1.Pod."""

    api_version: str = "v1"
    kind: str = "Pod"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class NodeAddress(ApiStruct, frozen=True, kw_only=True):
    """corev1.NodeAddress."""

    type: str
    address: str


class Taint(ApiStruct, frozen=True, kw_only=True):
    """corev1.Taint, with all fields: lists of taints are written back."""

    key: str
    value: str = ""
    effect: str = ""
    time_added: str | None = None


class NodeSpec(ApiStruct, frozen=True, kw_only=True):
    """corev1.NodeSpec."""

    pod_cidrs: list[str] = msgspec.field(default=[], name="podCIDRs")
    taints: list[Taint] = []


class NodeCondition(ApiStruct, frozen=True):
    """corev1.NodeCondition, which unlike metav1.Condition has a heartbeat."""

    type: str = ""
    status: str = ""


class NodeStatus(ApiStruct, frozen=True, kw_only=True):
    """corev1.NodeStatus."""

    addresses: list[NodeAddress] = []
    conditions: list[NodeCondition] = []


class Node(ApiStruct, frozen=True, kw_only=True):
    """corev1.Node."""

    api_version: str = "v1"
    kind: str = "Node"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class Secret(ApiStruct, frozen=True, kw_only=True):
    """corev1.Secret: values are base64."""

    api_version: str = "v1"
    kind: str = "Secret"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    type: str = "Opaque"
    data: dict[str, str] = {}


class ConfigMap(ApiStruct, frozen=True, kw_only=True):
    """corev1.ConfigMap."""

    api_version: str = "v1"
    kind: str = "ConfigMap"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    data: dict[str, str] = {}


class LeaseSpec(ApiStruct, frozen=True, kw_only=True):
    """coordination.k8s.io/v1 LeaseSpec."""

    holder_identity: str = ""
    lease_duration_seconds: int = 0
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int = 0


class Lease(ApiStruct, frozen=True, kw_only=True):
    """coordination.k8s.io/v1 Lease."""

    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: LeaseSpec = LeaseSpec()


class PlainObject(ApiStruct, frozen=True, kw_only=True):
    """An object of any kind: only its metadata matters, or it is passed on whole."""

    api_version: str = ""
    kind: str = ""
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}
