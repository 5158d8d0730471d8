"""Multi-Cluster Services API objects (KEP-1645, mcs-api v0.5.2), narrowed to what we use.

One invariant: v1alpha1 and v1beta1 have one schema, so one struct serves both. Every released CRD serves v1alpha1.
"""

from __future__ import annotations

import msgspec

from fleetboard.model import meta, names
from fleetboard.model.meta import WireStruct

API_VERSION = f"{names.MCS_GROUP}/v1alpha1"
VERSIONS = ("v1beta1", "v1alpha1")
"""Those that the structs fit."""


class ServiceExportSpec(WireStruct, frozen=True, kw_only=True):
    """Labels and annotations that go with the export."""

    exported_labels: dict[str, str] = {}
    exported_annotations: dict[str, str] = {}


class ServiceExportStatus(WireStruct, frozen=True, kw_only=True):
    """Written by syncer."""

    conditions: list[meta.Condition] = []


class ServiceExport(WireStruct, frozen=True, kw_only=True):
    """The user's wish to export the Service of the same name."""

    api_version: str = API_VERSION
    kind: str = "ServiceExport"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: ServiceExportSpec = ServiceExportSpec()
    status: ServiceExportStatus = ServiceExportStatus()


class ImportPort(WireStruct, frozen=True, kw_only=True):
    """A port of the imported service."""

    port: int
    protocol: str
    name: str = ""
    app_protocol: str = ""


class ClientIPConfig(WireStruct, frozen=True, kw_only=True):
    """Affinity by client address."""

    timeout_seconds: int = 0


class SessionAffinityConfig(WireStruct, frozen=True, kw_only=True):
    """As corev1.SessionAffinityConfig."""

    client_ip: ClientIPConfig | None = msgspec.field(default=None, name="clientIP")


class ServiceImportSpec(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What consumers see; ``ports`` and ``type`` are required by the CRD."""

    type: str = "ClusterSetIP"
    ports: list[ImportPort] = []
    ips: list[str] = []
    ip_families: list[str] = []
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    internal_traffic_policy: str | None = None
    traffic_distribution: str | None = None


class ImportCluster(WireStruct, frozen=True, kw_only=True):
    """An exporting cluster."""

    cluster: str


class ServiceImportStatus(WireStruct, frozen=True, kw_only=True):
    """Written by syncer."""

    clusters: list[ImportCluster] = []
    conditions: list[meta.Condition] = []
    endpoint_slice_objects: str = ""
    """``Present`` or ``Absent``; not in the schema before mcs-api v0.5.2."""


class ServiceImport(WireStruct, frozen=True, kw_only=True):
    """A service of the clusterset as this cluster sees it."""

    api_version: str = API_VERSION
    kind: str = "ServiceImport"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: ServiceImportSpec = ServiceImportSpec()
    status: ServiceImportStatus = ServiceImportStatus()
