"""Builders of what members send to the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from fleetboard.model import core, fleet, meta, names
from syncer.hub import merge


def make_peer(
    cluster: str = "c1",
    *,
    uid: str = "",
    admitted: bool = False,
    blocks: Sequence[str] = (),
    export_namespaces: Sequence[str] = ("*",),
) -> fleet.Peer:
    conditions = [meta.Condition(type="Admitted", status="True", reason="Admitted", message="")] if admitted else []
    return fleet.Peer(
        metadata=meta.ObjectMeta(name=cluster, namespace="fleetboard-default"),
        spec=fleet.PeerSpec(cluster=cluster, export_namespaces=list(export_namespaces)),
        status=fleet.PeerStatus(cluster_uid=uid, cluster_cidrs=list(blocks), conditions=conditions),
    )


def make_report(
    cluster: str = "c1",
    *,
    uid: str = "u1",
    networks: Sequence[str] = ("10.244.0.0/16", "10.96.0.0/16"),
    mtu: int = 1440,
    blocks_wanted: int = 1,
) -> fleet.PeerReport:
    return fleet.PeerReport(
        metadata=meta.ObjectMeta(name=cluster, namespace=f"fleetboard-default-{cluster}"),
        spec=fleet.PeerReportSpec(
            cluster=cluster,
            cluster_uid=uid,
            network_cidrs=list(networks),
            blocks_wanted=blocks_wanted,
            nodes=[fleet.ReportedNode(name="n1", public_key="k", mtu=mtu)],
        ),
    )


def make_port(port: int, name: str = "", protocol: str = "TCP", app_protocol: str = "") -> fleet.ServicePort:
    return fleet.ServicePort(port=port, name=name, protocol=protocol, app_protocol=app_protocol)


def make_exported(
    *, name: str = "shop.web", namespace: str = "shop", service: str = "web", **spec: object
) -> fleet.ExportedService:
    return fleet.ExportedService(
        metadata=meta.ObjectMeta(name=name, namespace="fleetboard-default-c1"),
        spec=fleet.ExportedServiceSpec(namespace=namespace, name=service, **spec),  # type: ignore[arg-type]
    )


def make_merge_export(cluster: str, second: int, **spec: object) -> merge.Export:
    return merge.Export(cluster, f"2026-01-01T00:00:{second:02}Z", make_exported(**spec).spec)  # type: ignore[arg-type]


def make_slice(
    addresses: Sequence[str], *, address_type: str = "IPv4", name: str = "web-x1", **labels: str
) -> core.EndpointSlice:
    return core.EndpointSlice(
        metadata=meta.ObjectMeta(
            name=name,
            namespace="fleetboard-default-c1",
            labels={
                names.LABEL_SERVICE_NAME: "web",
                names.LABEL_SERVICE_NAMESPACE: "shop",
                names.LABEL_MANAGED_BY: names.MANAGED_BY,
                **{key.replace("__", "/"): value for key, value in labels.items()},
            },
            annotations={"note": "x"},
            finalizers=["stuck.example/forever"],
            owner_references=[meta.OwnerReference(api_version="v1", kind="Pod", name="p", uid="u")],
        ),
        address_type=address_type,
        endpoints=[
            core.Endpoint(
                addresses=[address],
                hostname="h1",
                node_name="n1",
                target_ref=core.TargetRef(kind="Pod", name="p"),
                conditions=core.EndpointConditions(ready=False, terminating=True),
            )
            for address in addresses
        ],
        ports=[core.EndpointPort(name="http", port=8080)],
    )


def as_stored(spec: object) -> bytes:
    """Return an object's part as Go's JSON spells it, which is what API servers put into etcd."""
    plain = json.dumps(msgspec.to_builtins(spec), ensure_ascii=False, separators=(",", ":"))
    return plain.translate({ord(one): f"\\u{ord(one):04x}" for one in "<>&\u2028\u2029"}).encode()
