"""Names that all parts and charts share, and the rules for names that users choose.

Each name is defined here once. Charts repeat it only where Helm can't read it; a unit test compares them.
"""

from __future__ import annotations

import re

GROUP = "fleetboard.io"
VERSION = "v1alpha1"
MCS_GROUP = "multicluster.x-k8s.io"

NAMESPACE = "fleetboard-system"
"""The namespace of all parts, in every cluster."""

HUB = "hub"
"""Name of the hub's own Peer; no member may have this name."""

# KEP-1645 labels.
LABEL_SERVICE_NAME = "multicluster.kubernetes.io/service-name"
LABEL_SOURCE_CLUSTER = "multicluster.kubernetes.io/source-cluster"
# Kubernetes' own labels.
LABEL_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
LABEL_PROXY_NAME = "service.kubernetes.io/service-proxy-name"
LABEL_ZONE = "topology.kubernetes.io/zone"
LABEL_KUBE_SERVICE_NAME = "kubernetes.io/service-name"
# Fleetboard's own.
LABEL_SERVICE_NAMESPACE = "fleetboard.io/service-namespace"
LABEL_CLUSTER = "fleetboard.io/cluster"
LABEL_CLUSTERSET = "fleetboard.io/clusterset"
LABEL_APP = "app.kubernetes.io/name"

MANAGED_BY = "fleetboard.io"
"""Value of the managed-by label on every EndpointSlice that Fleetboard writes."""
IMPORTED_SLICES = f"{LABEL_MANAGED_BY}={MANAGED_BY},!{LABEL_SERVICE_NAMESPACE}"
"""Selects imported EndpointSlices, without those that members exchange on the hub, which may be a member too."""
PROXY_NAME = "fleetboard"
"""Value of the service-proxy-name label: kube-proxy leaves such slices alone."""

ANNOTATION_NETWORKS = "k8s.v1.cni.cncf.io/networks"
ANNOTATION_IMPORT_OWNER = "fleetboard.io/managed"
"""On a ServiceImport: "created" when syncer created it, "adopted" when a user did."""

ANNOTATION_REFUSED = "fleetboard.io/refused-addresses"
"""On the hub's copy of an EndpointSlice: how many addresses the hub left out, as outside the cluster's blocks."""

TAINT_NOT_READY = "fleetboard.io/cnf-not-ready"
"""Key of the taint of a node where cnf can't attach pods yet."""

TUNNEL_PORT = 31820
"""UDP port of WireGuard on every node and of the relay, inside the NodePort range."""
PROBE_PORT = 31821
"""UDP port of probes and leadership announcements; reachable inside the tunnel only."""
OBSERVE_PORT = 9464
"""TCP port of /metrics, /healthz and /readyz of every part."""
TUNNEL_INTERFACE = "fleet0"
"""Name of the WireGuard interface, in the node's namespace."""
VETH_PREFIX = "fv"
"""Prefix of the node's end of every attachment, which firewall rules match."""

NETWORK = "fleetboard"
"""Name of Fleetboard's NetworkAttachmentDefinition in every namespace that has one, and of its network."""

ZONES = ("hyperos.local", "clusterset.local")

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class NameRefusedError(ValueError):
    """A name that a user chose is invalid; the message says which and why."""


def parse_cluster_name(value: str) -> str:
    """Return ``value`` when it may name a member cluster.

    Cluster names become labels, object names and one DNS label (RFC 1123) of at most 63 characters. The member's
    namespace ``fleetboard-<clusterset>-<cluster>`` leaves 40 of them, beside a clusterset's name of 10.

    Raises:
        NameRefusedError: it is not a DNS label, too long, or the hub's own name.
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
        NameRefusedError: it is not a DNS label of at most 10 characters (member namespaces contain both names).
    """
    if not _LABEL.fullmatch(value) or len(value) > 10:
        raise NameRefusedError(
            f"clusterset name {value!r} is not a DNS label: expected 1 to 10 lower-case letters, digits and '-', "
            "beginning and ending with a letter or digit"
        )
    return value


def clusterset_namespace(clusterset: str) -> str:
    """Return the hub's namespace that members of ``clusterset`` read."""
    return f"fleetboard-{clusterset}"


def member_namespace(clusterset: str, cluster: str) -> str:
    """Return the hub's namespace that only member ``cluster`` writes."""
    return f"fleetboard-{clusterset}-{cluster}"
