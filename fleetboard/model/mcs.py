"""Objects of the Multi-Cluster Services API (KEP-1645, mcs-api v0.5.2), with the fields that Fleetboard uses.

v1alpha1 and v1beta1 have one schema, so one struct serves both. Every released CRD serves v1alpha1.
"""

from __future__ import annotations

import msgspec

from fleetboard.model import meta, names
from fleetboard.model.meta import ApiStruct

API_VERSION = f"{names.MCS_GROUP}/v1alpha1"
VERSIONS = ("v1beta1", "v1alpha1")
"""The versions that the structs fit, newest first."""


class ServiceExportSpec(ApiStruct, frozen=True, kw_only=True):
    """Labels and annotations of the export."""

    exported_labels: dict[str, str] = {}
    exported_annotations: dict[str, str] = {}


class ServiceExportStatus(ApiStruct, frozen=True, kw_only=True):
    """Written by syncer."""

    conditions: list[meta.Condition] = []


class ServiceExport(ApiStruct, frozen=True, kw_only=True):
    """A user's request to export the Service of the same name."""

    api_version: str = API_VERSION
    kind: str = "ServiceExport"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: ServiceExportSpec = ServiceExportSpec()
    status: ServiceExportStatus = ServiceExportStatus()


class ImportPort(ApiStruct, frozen=True, kw_only=True):
    """A port of the imported service."""

    port: int
    protocol: str
    name: str = ""
    app_protocol: str = ""


class ClientIPConfig(ApiStruct, frozen=True, kw_only=True):
    """Affinity by client address."""

    timeout_seconds: int = 0


class SessionAffinityConfig(ApiStruct, frozen=True, kw_only=True):
    """Same as corev1.SessionAffinityConfig."""

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


class ImportCluster(ApiStruct, frozen=True, kw_only=True):
    """An exporting cluster."""

    cluster: str


class ServiceImportStatus(ApiStruct, frozen=True, kw_only=True):
    """Written by syncer."""

    clusters: list[ImportCluster] = []
    conditions: list[meta.Condition] = []
    endpoint_slice_objects: str = ""
    """``Present`` or ``Absent``; not in the schema before mcs-api v0.5.2."""


class ServiceImport(ApiStruct, frozen=True, kw_only=True):
    """A service of the clusterset as this cluster sees it."""

    api_version: str = API_VERSION
    kind: str = "ServiceImport"
    metadata: meta.ObjectMeta = meta.ObjectMeta()
    spec: ServiceImportSpec = ServiceImportSpec()
    status: ServiceImportStatus = ServiceImportStatus()
