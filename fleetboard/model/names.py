"""Names that every part and chart must agree on, and the rules for names that users choose.

One invariant: a name is spelled here once; charts repeat it only where Helm can't read it, and a unit test compares.
"""

from __future__ import annotations

import re

GROUP = "fleetboard.io"
VERSION = "v1alpha1"
MCS_GROUP = "multicluster.x-k8s.io"

NAMESPACE = "fleetboard-system"
"""Where all parts run, in every cluster."""

HUB = "hub"
"""Name of the hub's own Peer; no member may have it."""

# KEP-1645 labels.
LABEL_SERVICE_NAME = "multicluster.kubernetes.io/service-name"
LABEL_SOURCE_CLUSTER = "multicluster.kubernetes.io/source-cluster"
# Kubernetes' own labels.
LABEL_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
LABEL_PROXY_NAME = "service.kubernetes.io/service-proxy-name"
LABEL_ZONE = "topology.kubernetes.io/zone"
LABEL_KUBE_SERVICE_NAME = "kubernetes.io/service-name"
# Ours.
LABEL_SERVICE_NAMESPACE = "fleetboard.io/service-namespace"
LABEL_CLUSTER = "fleetboard.io/cluster"
LABEL_CLUSTERSET = "fleetboard.io/clusterset"
LABEL_APP = "app.kubernetes.io/name"

MANAGER = "fleetboard.io"
"""Value of the managed-by label on every EndpointSlice of ours."""
IMPORTED_SLICES = f"{LABEL_MANAGED_BY}={MANAGER},!{LABEL_SERVICE_NAMESPACE}"
"""Selects EndpointSlices that were imported; not those that members exchange on a hub, which may be a member too."""
PROXY_NAME = "fleetboard"
"""Value of the service-proxy-name label: kube-proxy leaves such slices alone."""

ANNOTATION_NETWORKS = "k8s.v1.cni.cncf.io/networks"
ANNOTATION_IMPORT_OWNER = "fleetboard.io/managed"
"""On a ServiceImport: "created" when syncer made it, "adopted" when a user did."""

ANNOTATION_REFUSED = "fleetboard.io/refused-addresses"
"""On the hub's copy of an EndpointSlice: how many addresses of it the hub left out, as not the cluster's."""

TAINT_NOT_READY = "fleetboard.io/cnf-not-ready"
"""Key of the taint on a node where pods can't be attached yet."""

TUNNEL_PORT = 31820
"""UDP port of WireGuard on every node and on the hub; inside the NodePort range on purpose."""
PROBE_PORT = 31821
"""UDP port of probes and leadership announcements, reached inside the tunnel only."""
OBSERVE_PORT = 9464
"""TCP port of /metrics, /healthz and /readyz of every part."""
TUNNEL_INTERFACE = "fleet0"
"""WireGuard interface in cnf's network namespace."""
VETH_PREFIX = "fv"
"""First letters of the cnf end of every pod's interface, as firewall rules match it."""

NETWORK = "fleetboard"
"""Name of our NetworkAttachmentDefinition in every namespace that has one, and of its network."""

ZONES = ("hyperos.local", "clusterset.local")

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class NameRefusedError(ValueError):
    """A name that a user chose can't be used; the sentence says which and why."""


def parse_cluster_name(value: str) -> str:
    """Return ``value`` when it may name a member cluster.

    Cluster names become labels, object names and one DNS label (RFC 1123) of at most 63 characters. The member's
    namespace ``fleetboard-<clusterset>-<cluster>`` leaves 40 of them, beside a clusterset's name of 10.

    Raises:
        NameRefusedError: not a DNS label, too long, or the hub's own name.
    """
    if not _LABEL.fullmatch(value) or len(value) > 40:
        raise NameRefusedError(
            f"cluster name {value!r} is not a DNS label: expected 1 to 40 lower-case letters, digits and '-', "
            "beginning and ending with a letter or digit"
        )
    if value == HUB:
        raise NameRefusedError(f"cluster name {value!r} is the hub's own: choose another")
    return value


def parse_clusterset_name(value: str) -> str:
    """Return ``value`` when it may name a clusterset.

    Raises:
        NameRefusedError: not a DNS label of at most 10 characters (member namespaces hold both names).
    """
    if not _LABEL.fullmatch(value) or len(value) > 10:
        raise NameRefusedError(
            f"clusterset name {value!r} is not a DNS label: expected 1 to 10 lower-case letters, digits and '-', "
            "beginning and ending with a letter or digit"
        )
    return value


def clusterset_namespace(clusterset: str) -> str:
    """Name the hub's namespace that members of ``clusterset`` read."""
    return f"fleetboard-{clusterset}"


def member_namespace(clusterset: str, cluster: str) -> str:
    """Name the hub's namespace that member ``cluster`` alone writes."""
    return f"fleetboard-{clusterset}-{cluster}"


def service_key(namespace: str, name: str) -> str:
    """Name the hub's objects of one service: both parts are DNS labels, so the dot parts them again."""
    return f"{namespace}.{name}"


def parse_service_key(key: str) -> tuple[str, str]:
    """Part a name made by ``service_key`` into namespace and service name."""
    namespace, _, name = key.partition(".")
    if not namespace or not name:
        raise NameRefusedError(f"object name {key!r} is not <namespace>.<service>")
    return namespace, name
