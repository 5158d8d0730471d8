"""Where the API serves each kind, and the struct that reads it.

One invariant: a kind's path is spelled here and nowhere else.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, TypeVar

from fleetboard.model import core, fleet, mcs, names

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """One collection of the API.

    Attributes:
        group: API group, empty for the core group.
        version: API version.
        plural: Name in the path.
        kind: Kind of its objects.
        type: Struct that objects are decoded into; has ``metadata``.
        namespaced: Whether objects live in a namespace.
    """

    group: str
    version: str
    plural: str
    kind: str
    type: type[T]
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """``group/version`` as objects carry it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def at(self, version: str) -> Resource[T]:
        """Return the same collection in another version of the API."""
        return dataclasses.replace(self, version=version)

    def path(self, namespace: str = "", name: str = "", *, subresource: str = "") -> str:
        """Return the URL path of the collection, of one object, or of its subresource.

        Without ``namespace`` a namespaced kind's path spans all namespaces.
        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if namespace and self.namespaced else ""
        tail = f"/{name}" if name else ""
        return f"{root}{scope}/{self.plural}{tail}" + (f"/{subresource}" if subresource else "")


def _fleet(plural: str, kind: str, type_: type[T]) -> Resource[T]:
    return Resource(names.GROUP, names.VERSION, plural, kind, type_)


PEERS = _fleet("peers", "Peer", fleet.Peer)
PEER_REPORTS = _fleet("peerreports", "PeerReport", fleet.PeerReport)
EXPORTED_SERVICES = _fleet("exportedservices", "ExportedService", fleet.ExportedService)
FLEET_SERVICES = _fleet("fleetservices", "FleetService", fleet.FleetService)
CLAIMS = _fleet("claims", "Claim", fleet.Claim)
FLEET_NODES = _fleet("fleetnodes", "FleetNode", fleet.FleetNode)
NODE_ATTACHMENTS = _fleet("nodeattachments", "NodeAttachments", fleet.NodeAttachments)

SERVICE_EXPORTS = Resource(names.MCS_GROUP, "v1alpha1", "serviceexports", "ServiceExport", mcs.ServiceExport)
SERVICE_IMPORTS = Resource(names.MCS_GROUP, "v1alpha1", "serviceimports", "ServiceImport", mcs.ServiceImport)

SERVICES = Resource("", "v1", "services", "Service", core.Service)
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", core.EndpointSlice)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", core.Namespace, namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", core.Node, namespaced=False)
PODS = Resource("", "v1", "pods", "Pod", core.Pod)
SECRETS = Resource("", "v1", "secrets", "Secret", core.Secret)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", core.ConfigMap)
SERVICE_ACCOUNTS: Resource[core.PlainObject] = Resource("", "v1", "serviceaccounts", "ServiceAccount", core.PlainObject)
EVENTS: Resource[core.PlainObject] = Resource("events.k8s.io", "v1", "events", "Event", core.PlainObject)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", core.Lease)
DAEMON_SETS: Resource[core.PlainObject] = Resource("apps", "v1", "daemonsets", "DaemonSet", core.PlainObject)
DEPLOYMENTS: Resource[core.PlainObject] = Resource("apps", "v1", "deployments", "Deployment", core.PlainObject)
ROLES: Resource[core.PlainObject] = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role", core.PlainObject)
ROLE_BINDINGS: Resource[core.PlainObject] = Resource(
    "rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", core.PlainObject
)
CRDS: Resource[core.PlainObject] = Resource(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    core.PlainObject,
    namespaced=False,
)
RESOURCE_QUOTAS: Resource[core.PlainObject] = Resource("", "v1", "resourcequotas", "ResourceQuota", core.PlainObject)

AnyResource = Resource[Any]
