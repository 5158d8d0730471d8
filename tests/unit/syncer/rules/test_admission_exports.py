"""Which exports and endpoints of a member the clusterset gets to see."""

from __future__ import annotations

import pathlib

import msgspec
import pytest
import yaml
from hub_objects import as_stored, make_exported, make_peer, make_port, make_slice
from hypothesis import given
from hypothesis import strategies as st

from fleetboard.model import core, fleet, names
from syncer.hub.copies import plan as copy_plan
from syncer.rules import admission, slices

CRDS = pathlib.Path(__file__).parents[4] / "manifests/crds"
PEER = make_peer(uid="u1", admitted=True, blocks=["10.113.4.0/22", "fd00:0:0:100::/56"])


def plan(source: object, peer: fleet.Peer | None = PEER) -> copy_plan.SliceCopy:
    return copy_plan.plan(source, cluster="c1", peer=peer, clusterset="default")  # type: ignore[arg-type]


def test_a_good_export_is_taken() -> None:
    ports = [
        make_port(80, "http", app_protocol="kubernetes.io/h2c"),
        make_port(53, "dns", "UDP", app_protocol="DNS_1.0"),
    ]
    exported = make_exported(ports=[*ports, make_port(1, app_protocol=f"{'x' * 253}/{'y' * 63}")])
    assert admission.refuse_export(PEER, exported) is None


@given(st.text(alphabet="ab<>&\u2028\u2029\u00e9\n", max_size=40))
def test_an_exports_size_is_what_the_api_server_stores(text: str) -> None:
    exported = make_exported(exported_annotations={"a": "&" * 11_000, "b": text}, exported_labels={"c": text})
    size = len(as_stored(exported.spec))
    assert f"has {size} bytes" in (admission.refuse_export(PEER, exported) or "")


@pytest.mark.parametrize(
    ("exported", "part"),
    [
        (make_exported(name="other.web"), "other.web"),
        (make_exported(name="Shop.web", namespace="Shop"), "'Shop'"),
        (make_exported(name="shop.a.b", service="a.b"), "'a.b'"),
        (make_exported(type="ExternalName"), "ExternalName"),
        (make_exported(session_affinity="Sticky"), "Sticky"),
        (make_exported(session_affinity_timeout_s=-1), "-1"),
        (make_exported(internal_traffic_policy="no word"), "no word"),
        (make_exported(traffic_distribution="x" * 64), "xxx"),
        (make_exported(ip_families=["IPv5"]), "IPv5"),
        (make_exported(ip_families=["IPv4", "IPv4"]), "each once"),
        (make_exported(ports=[make_port(1 + number, f"p{number}") for number in range(257)]), "257 entries"),
        (make_exported(exported_annotations={"a": "x" * 70_000}), "bytes with its exported labels and annotations"),
        (make_exported(exported_annotations={"a": "<" * 11_000}), "expected at most 65536"),
        (make_exported(ports=[make_port(80, app_protocol="x" * 64)]), f"appProtocol '{'x' * 64}' of port 80"),
        (make_exported(ports=[make_port(80, app_protocol="<" * 290)]), f"appProtocol '{'<' * 64}' of port 80"),
        (make_exported(ports=[make_port(80, app_protocol=f"{'x' * 254}/http")]), "is not a qualified name"),
        (make_exported(ports=[make_port(0)]), "port 0"),
        (make_exported(ports=[make_port(80, protocol="QUIC")]), "QUIC"),
        (make_exported(ports=[make_port(80, name="A_B")]), "A_B"),
    ],
)
def test_a_bad_export_is_refused_naming_the_value(exported: fleet.ExportedService, part: str) -> None:
    assert part in (admission.refuse_export(PEER, exported) or "")


def test_the_hubs_schema_has_the_limits_of_admission() -> None:
    crd = yaml.safe_load((CRDS / "fleetboard.io_exportedservices.yaml").read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert spec["ports"]["maxItems"] == admission.MAX_PORTS
    assert spec["exportedAnnotations"]["additionalProperties"]["maxLength"] == admission.MAX_EXPORT_BYTES
    largest = [make_port(65000 + number, f"{number}".rjust(63, "x"), "SCTP") for number in range(256)]
    assert admission.refuse_export(PEER, make_exported(ports=largest)) is None


def test_mcs8_only_namespaces_that_the_hub_allows_are_exported() -> None:
    peer = make_peer(export_namespaces=["shop"])
    assert admission.refuse_service(peer, namespace="shop", name="web") is None
    assert "kube-system" in (admission.refuse_service(peer, namespace="kube-system", name="web") or "")


def test_mcs26_a_copy_is_of_the_cluster_it_was_found_in_whatever_it_says() -> None:
    source = make_slice(["10.113.4.5"], multicluster_kubernetes_io="x", **{names.LABEL_SOURCE_CLUSTER: "c2"})
    copied = plan(source).slice
    assert copied is not None
    assert copied.metadata.name == "c1.web-x1"
    assert copied.metadata.namespace == "fleetboard-default"
    assert copied.metadata.labels == {
        names.LABEL_SERVICE_NAME: "web",
        names.LABEL_SERVICE_NAMESPACE: "shop",
        names.LABEL_SOURCE_CLUSTER: "c1",
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_PROXY_NAME: names.PROXY_NAME,
    }


def test_a_copy_has_no_owner_no_finalizer_no_annotation_and_no_node() -> None:
    copied = plan(make_slice(["10.113.4.5"])).slice
    assert copied is not None
    assert not copied.metadata.annotations
    assert not copied.metadata.finalizers
    assert not copied.metadata.owner_references
    (endpoint,) = copied.endpoints or []
    assert (endpoint.node_name, endpoint.target_ref, endpoint.hostname) == (None, None, "h1")
    assert (endpoint.conditions.ready, endpoint.conditions.terminating) == (False, True)


def test_addresses_outside_the_clusters_blocks_are_dropped_and_counted() -> None:
    planned = plan(make_slice(["10.113.4.5", "10.113.8.1", "127.0.0.1", "169.254.1.1", "nonsense", "10.113.7.255"]))
    assert planned.slice is not None
    assert [endpoint.addresses for endpoint in planned.slice.endpoints or []] == [["10.113.4.5"], ["10.113.7.255"]]
    assert planned.dropped == 4
    assert planned.slice.metadata.annotations == {names.ANNOTATION_REFUSED: "4"}


def test_addresses_of_the_other_family_are_dropped() -> None:
    planned = plan(make_slice(["fd00:0:0:100::5", "10.113.4.5"], address_type="IPv6"))
    assert planned.slice is not None
    assert [endpoint.addresses for endpoint in planned.slice.endpoints or []] == [["fd00:0:0:100::5"]]


def test_a_member_that_is_not_admitted_has_no_copies() -> None:
    assert plan(make_slice(["10.113.4.5"]), None).slice is None
    assert plan(make_slice(["10.113.4.5"]), make_peer(blocks=["10.113.4.0/22"])).slice is None


@pytest.mark.parametrize(
    "labels",
    [{names.LABEL_SERVICE_NAME: ""}, {names.LABEL_SERVICE_NAMESPACE: "a.b"}, {names.LABEL_SERVICE_NAME: "../x"}],
)
def test_a_slice_of_no_nameable_service_is_not_copied(labels: dict[str, str]) -> None:
    planned = plan(make_slice(["10.113.4.5"], **labels))
    assert planned.slice is None
    assert planned.refused


def test_a_slice_of_host_names_is_not_copied() -> None:
    assert plan(make_slice([], address_type="FQDN")).slice is None


_label = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
_name = st.from_regex(r"[a-z0-9]([-.a-z0-9]{0,250}[a-z0-9])?", fullmatch=True)


@given(_label, _name, _label, _name)
def test_no_two_slices_share_a_copy(cluster: str, name: str, other_cluster: str, other_name: str) -> None:
    first, second = copy_plan.copy_name(cluster, name), copy_plan.copy_name(other_cluster, other_name)
    assert len(first) <= 253
    assert (first == second) is ((cluster, name) == (other_cluster, other_name))


def test_an_unchanged_copy_needs_no_write() -> None:
    copied = plan(make_slice(["10.113.4.5"])).slice
    empty = plan(make_slice([])).slice
    assert copied is not None
    assert empty is not None
    assert slices.is_same(copied, copied, exact=True)
    assert not slices.is_same(copied, empty, exact=True)
    noted = plan(make_slice(["10.113.4.5", "10.113.8.1"])).slice
    assert noted is not None
    assert not slices.is_same(noted, copied, exact=True), "the number of refused addresses is part of it"


@pytest.mark.parametrize("port", [-1, 0, 65536, 70000])
def test_a_slice_with_an_invalid_port_is_not_copied(port: int) -> None:
    source = msgspec.structs.replace(make_slice(["10.113.4.5"]), ports=[core.EndpointPort(name="http", port=port)])
    planned = plan(source)
    assert planned.slice is None
    assert str(port) in planned.refused
