"""Builders of the objects that exports and imports are decided from."""

from __future__ import annotations

import ipaddress
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from fleetboard.model import core, fleet, mcs, meta, names
from fleetboard.model.addresses import Address
from fleetboard.model.keys import ServiceKey
from syncer.member.exports import plan
from syncer.member.imports import plan as import_plan

CRDS = pathlib.Path(__file__).parents[2] / "manifests/crds"
MCS_GROUP_VERSION = "multicluster.x-k8s.io/v1alpha1"
BLOCKS = {
    "c1": (ipaddress.ip_network("10.113.0.0/22"),),
    "c2": (ipaddress.ip_network("10.113.4.0/22"), ipaddress.ip_network("fd00:1::/56")),
}


def make_service(
    *,
    type_: str = "ClusterIP",
    cluster_ip: str = "10.96.0.20",
    ports: Sequence[core.CoreServicePort] = (),
    **spec: object,
) -> core.Service:
    listed = list(ports) or [core.CoreServicePort(port=80, name="http")]
    return core.Service(
        metadata=meta.ObjectMeta(name="web", namespace="shop"),
        spec=core.ServiceSpec(type=type_, cluster_ip=cluster_ip, ports=listed, **spec),  # type: ignore[arg-type]
    )


def make_export(*, uid: str = "e1", generation: int = 1, labels: Mapping[str, str] | None = None) -> mcs.ServiceExport:
    return mcs.ServiceExport(
        metadata=meta.ObjectMeta(name="web", namespace="shop", uid=uid, generation=generation),
        spec=mcs.ServiceExportSpec(exported_labels=dict(labels or {})),
    )


def make_endpoint(uid: str, address: str = "10.244.0.5", **fields: object) -> core.Endpoint:
    reference = core.TargetRef(kind="Pod", name=uid, namespace="shop", uid=uid)
    return core.Endpoint(addresses=[address], target_ref=reference, node_name="n1", **fields)  # type: ignore[arg-type]


def make_slice(
    *endpoints: core.Endpoint,
    name: str = "web-x1",
    port: int = 8080,
    port_name: str = "http",
    address_type: str = "IPv4",
    labels: Mapping[str, str] | None = None,
) -> core.EndpointSlice:
    return core.EndpointSlice(
        metadata=meta.ObjectMeta(name=name, namespace="shop", labels=dict(labels or {})),
        address_type=address_type,
        endpoints=list(endpoints),
        ports=[core.EndpointPort(name=port_name, port=port)],
    )


def make_source(*slices: core.EndpointSlice, **fields: object) -> plan.ExportInputs:
    given: dict[str, object] = {"export": make_export(), "service": make_service(), **fields}
    return plan.ExportInputs(key=ServiceKey("shop", "web"), slices=slices, **given)  # type: ignore[arg-type]


def addresses(**pods: str) -> plan.AddressesOf:
    known = {uid: tuple(map(ipaddress.ip_address, text.split(","))) for uid, text in pods.items()}

    def addresses_of(uid: str) -> tuple[Address, ...]:
        return known.get(uid, ())

    return addresses_of


def remote_slice(*texts: str, cluster: str = "c2", name: str = "", port: int = 8080) -> core.EndpointSlice:
    labels = {names.LABEL_SOURCE_CLUSTER: cluster, names.LABEL_SERVICE_NAME: "web"}
    endpoints = [core.Endpoint(addresses=[text], node_name="n1", hostname="h") for text in texts]
    return make_slice(*endpoints, name=name or f"{cluster}.shop.web.ipv4.0", labels=labels, port=port)


def make_merged(
    *clusters: str, ports: Sequence[fleet.ServicePort] = (fleet.ServicePort(port=80, name="http"),), **spec: object
) -> fleet.FleetService:
    given: dict[str, object] = {
        "vips": ["10.112.0.9"],
        "ports": list(ports),
        "constituents": [fleet.Constituent(cluster=cluster, ports=list(ports)) for cluster in clusters],
        **spec,
    }
    return fleet.FleetService(
        metadata=meta.ObjectMeta(name="shop.web"),
        spec=fleet.FleetServiceSpec(namespace="shop", name="web", **given),  # type: ignore[arg-type]
    )


def make_import(
    *, owner: str | None = import_plan.CREATED, spec: mcs.ServiceImportSpec | None = None, uid: str = "i1"
) -> mcs.ServiceImport:
    annotations = {} if owner is None else {names.ANNOTATION_IMPORT_OWNER: owner}
    return mcs.ServiceImport(
        metadata=meta.ObjectMeta(name="web", namespace="shop", uid=uid, annotations=annotations),
        spec=spec or mcs.ServiceImportSpec(),
    )


def situation(**fields: object) -> import_plan.ImportInputs:
    given: dict[str, object] = {
        "cluster": "c1",
        "merged": None,
        "own": plan.NOTHING,
        "remote": [],
        "blocks": BLOCKS,
        "families": ("IPv4",),
        "current": None,
        **fields,
    }
    return import_plan.ImportInputs(**given)  # type: ignore[arg-type]


def import_schema(*lacking: str) -> dict[str, Any]:
    """Return what an API server serves of our definition of ServiceImports, or of one without ``spec.x``."""
    crd = yaml.safe_load((CRDS / "multicluster.x-k8s.io_serviceimports.yaml").read_text())
    served = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for path in lacking:
        part, _, field = path.partition(".")
        del served["properties"][part]["properties"][field]
    served["x-kubernetes-group-version-kind"] = [
        {"group": "multicluster.x-k8s.io", "kind": "ServiceImport", "version": "v1alpha1"}
    ]
    return {"components": {"schemas": {"x.ServiceImportList": {"type": "object"}, "x.ServiceImport": served}}}
