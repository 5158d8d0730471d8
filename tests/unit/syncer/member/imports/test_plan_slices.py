"""Which EndpointSlices an import gets."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcs_objects import (
    BLOCKS,
    addresses,
    make_endpoint,
    make_import,
    make_merged,
    make_slice,
    make_source,
    remote_slice,
    situation,
)

from fleetboard.model import core, fleet, meta, names
from fleetboard.model.trust import is_endpoint
from syncer.member.exports import plan as export_plan
from syncer.member.imports import plan as import_plan
from syncer.rules import slices

SHOP = core.Namespace(metadata=meta.ObjectMeta(name="shop", uid="n1"))
HTTP = fleet.ServicePort(port=80, name="http")


def local(cluster: str = "c1") -> export_plan.ExportPlan:
    source = make_source(make_slice(make_endpoint("u1")))
    return export_plan.plan(source, cluster=cluster, addresses_of=addresses(u1="10.113.0.5"))


def imported(plan: import_plan.ImportPlan) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for slice_ in plan.slices:
        texts = found.setdefault(slice_.metadata.labels[names.LABEL_SOURCE_CLUSTER], [])
        texts += [text for endpoint in slice_.endpoints or [] for text in endpoint.addresses]
    return found


def test_mcs25_each_source_cluster_has_slices_of_its_own() -> None:
    plan = import_plan.plan(situation(merged=make_merged("c1", "c2"), own=local(), remote=[remote_slice("10.113.4.7")]))
    assert imported(plan) == {"c1": ["10.113.0.5"], "c2": ["10.113.4.7"]}


def test_own_endpoints_are_there_before_the_hub_merged_them_and_before_the_first_contact() -> None:
    plan = import_plan.plan(situation(merged=make_merged("c2"), own=local(), remote=None))
    assert imported(plan) == {"c1": ["10.113.0.5"]}


def test_a_withdrawn_own_export_leaves_at_once_though_the_merge_still_names_it() -> None:
    plan = import_plan.plan(situation(merged=make_merged("c1", "c2"), remote=[remote_slice("10.113.4.7")]))
    assert imported(plan) == {"c2": ["10.113.4.7"]}


def test_the_hubs_copy_of_our_own_endpoints_is_not_used() -> None:
    copy = remote_slice("10.113.0.99", cluster="c1")
    plan = import_plan.plan(situation(merged=make_merged("c1"), own=local(), remote=[copy]))
    assert imported(plan) == {"c1": ["10.113.0.5"]}


def test_a_cluster_that_the_merge_does_not_name_is_not_imported() -> None:
    plan = import_plan.plan(situation(merged=make_merged("c2"), remote=[remote_slice("10.113.8.1", cluster="c3")]))
    assert imported(plan) == {}


def test_addresses_outside_the_source_clusters_blocks_are_dropped_and_counted() -> None:
    remote = remote_slice("10.113.4.7", "10.113.0.7", "127.0.0.1", "169.254.169.254", "224.0.0.1", "not-an-address")
    plan = import_plan.plan(situation(merged=make_merged("c2"), remote=[remote]))
    assert imported(plan) == {"c2": ["10.113.4.7"]}
    assert plan.dropped == {"c2": 5}
    assert plan.ready is not None
    assert "5 addresses of cluster c2 refused" in plan.ready.message


def test_loopback_link_local_multicast_and_broadcast_are_refused_even_inside_a_block() -> None:
    everything = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    refused = ["127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "240.0.0.1"]
    refused += ["::1", "::", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "fd00::1%lo"]
    assert [text for text in refused if is_endpoint(text, everything)] == []


@given(st.ip_addresses())
def test_only_addresses_in_the_clusters_own_blocks_are_importable(address: ipaddress.IPv4Address) -> None:
    inside = any(address.version == block.version and address in block for block in BLOCKS["c2"])
    assert is_endpoint(str(address), BLOCKS["c2"]) == inside


@given(st.integers(0, 1023))
def test_every_address_of_a_block_is_importable_from_its_cluster_alone(offset: int) -> None:
    text = str(ipaddress.ip_address("10.113.4.0") + offset)
    assert is_endpoint(text, BLOCKS["c2"])
    assert not is_endpoint(text, BLOCKS["c1"])


def test_a_cluster_without_a_peer_has_no_address_to_give() -> None:
    plan = import_plan.plan(situation(merged=make_merged("c2"), remote=[remote_slice("10.113.4.7")], blocks={}))
    assert imported(plan) == {"c2": []}


def test_mcs25_a_foreign_node_and_pod_are_stripped_and_conditions_and_hostname_kept() -> None:
    state = core.EndpointConditions(ready=False, serving=True)
    foreign = make_endpoint("u9", "10.113.4.7", hostname="db-0", zone="z", conditions=state)
    remote = make_slice(foreign, labels={names.LABEL_SOURCE_CLUSTER: "c2"})
    [slice_] = import_plan.plan(situation(merged=make_merged("c2"), remote=[remote])).slices
    assert slice_.endpoints == [core.Endpoint(addresses=["10.113.4.7"], hostname="db-0", zone="z", conditions=state)]


def test_mcs17_a_port_that_lost_its_conflict_is_not_served_by_its_cluster() -> None:
    winner, loser = HTTP, fleet.ServicePort(port=8080, name="http")
    merged = make_merged(
        "c1",
        constituents=[
            fleet.Constituent(cluster="c1", ports=[winner]),
            fleet.Constituent(cluster="c2", ports=[loser]),
        ],
    )
    [slice_] = import_plan.plan(situation(merged=merged, remote=[remote_slice("10.113.4.7")])).slices
    assert slice_.ports == []


def test_target_ports_stay_under_the_service_ports_name() -> None:
    [slice_] = import_plan.plan(
        situation(merged=make_merged("c2"), remote=[remote_slice("10.113.4.7", port=9999)])
    ).slices
    assert [(port.name, port.port) for port in slice_.ports or []] == [("http", 9999)]


def test_mcs7_mcs26_labels_bind_a_slice_to_its_service_and_hide_it_from_kube_proxy() -> None:
    [slice_] = import_plan.plan(situation(merged=make_merged("c2"), remote=[remote_slice("10.113.4.7")])).slices
    assert slice_.metadata.labels == {
        names.LABEL_MANAGED_BY: "fleetboard.io",
        names.LABEL_PROXY_NAME: "fleetboard",
        names.LABEL_SERVICE_NAME: "web",
        names.LABEL_SOURCE_CLUSTER: "c2",
        names.LABEL_KUBE_SERVICE_NAME: slices.derived_service("shop", "web"),
    }


def test_mcs7_the_derived_service_follows_the_reference_rule_and_is_never_the_real_name() -> None:
    name = slices.derived_service("shop", "web")
    assert name.startswith("derived-")
    assert len(name) == len("derived-") + 10
    assert name != slices.derived_service("other", "web")


def test_slices_of_two_sources_never_share_a_name() -> None:
    found = {
        slices.slice_name("web", cluster=cluster, source=source)
        for cluster in ("c1", "c2", "c1-c2")
        for source in ("shop.web.ipv4.0", "shop.web.ipv4.1", "shop.web.ipv6.0")
    }
    assert len(found) == 9


def stored(plan: import_plan.ImportPlan) -> list[core.EndpointSlice]:
    return [slices.place(slice_, namespace="shop", owners=[make_import(), SHOP]) for slice_ in plan.slices]


def test_mcs3_surplus_slices_go_and_planned_ones_stay() -> None:
    before = import_plan.plan(
        situation(merged=make_merged("c1", "c2"), own=local(), remote=[remote_slice("10.113.4.7")])
    )
    after = import_plan.plan(situation(merged=make_merged("c1"), own=local()))
    surplus = import_plan.obsolete_slices(stored(before), after, cluster="c1")
    assert [slice_.metadata.labels[names.LABEL_SOURCE_CLUSTER] for slice_ in surplus] == ["c2"]


def test_other_clusters_slices_stay_before_the_first_contact_with_the_hub() -> None:
    before = import_plan.plan(
        situation(merged=make_merged("c1", "c2"), own=local(), remote=[remote_slice("10.113.4.7")])
    )
    unheard = import_plan.plan(situation(merged=make_merged("c1", "c2"), remote=None))
    surplus = import_plan.obsolete_slices(stored(before), unheard, cluster="c1")
    assert [slice_.metadata.labels[names.LABEL_SOURCE_CLUSTER] for slice_ in surplus] == ["c1"]


def test_mcs3_an_ended_import_has_no_slice_left() -> None:
    before = import_plan.plan(situation(merged=make_merged("c2"), remote=[remote_slice("10.113.4.7")]))
    ended = import_plan.plan(situation(current=make_import()))
    assert import_plan.obsolete_slices(stored(before), ended, cluster="c1") == stored(before)


def test_a_slice_is_written_again_for_a_new_owner_and_for_nothing_else_that_the_server_adds() -> None:
    [planned] = import_plan.plan(situation(merged=make_merged("c2"), remote=[remote_slice("10.113.4.7")])).slices
    wanted = slices.place(planned, namespace="shop", owners=[make_import(), SHOP])
    served = msgspec.structs.replace(
        wanted, metadata=msgspec.structs.replace(wanted.metadata, uid="s1", resource_version="7", generation=2)
    )
    assert slices.is_same(served, wanted)
    reborn = slices.place(planned, namespace="shop", owners=[make_import(uid="i2"), SHOP])
    assert not slices.is_same(served, reborn)


def test_mcs27_a_slice_is_owned_by_its_import_and_outlives_it_because_the_namespace_owns_it_too() -> None:
    [planned] = import_plan.plan(situation(merged=make_merged("c2"), remote=[remote_slice("10.113.4.7")])).slices
    placed = slices.place(planned, namespace="shop", owners=[make_import(), SHOP])
    owners = [(owner.api_version, owner.kind, owner.uid) for owner in placed.metadata.owner_references]
    assert owners == [("multicluster.x-k8s.io/v1alpha1", "ServiceImport", "i1"), ("v1", "Namespace", "n1")]
    collected = msgspec.structs.replace(
        placed, metadata=msgspec.structs.replace(placed.metadata, owner_references=placed.metadata.owner_references[1:])
    )
    assert not slices.is_same(collected, placed), "what the garbage collector took is written again"


def hints(plan: import_plan.ImportPlan) -> list[list[str]]:
    """Return the zones each endpoint is hinted for."""
    found = [endpoint.hints for slice_ in plan.slices for endpoint in slice_.endpoints or []]
    return [[zone.name for zone in one.for_zones] if one is not None else [] for one in found]


ZONED = make_slice(
    make_endpoint("u1", "10.113.4.7", zone="z1"),
    make_endpoint("u2", "10.113.4.8"),
    make_endpoint("u3", "10.113.4.9", zone="no zone"),
    labels={names.LABEL_SOURCE_CLUSTER: "c2"},
)


@pytest.mark.parametrize("wish", ["PreferClose", "PreferSameZone", "PreferSameNode"])
def test_endpoints_are_hinted_for_their_zone_where_the_service_wishes_near_ones(wish: str) -> None:
    merged = make_merged("c2", traffic_distribution=wish)
    assert hints(import_plan.plan(situation(merged=merged, remote=[ZONED]))) == [["z1"], [], []]


@pytest.mark.parametrize("wish", ["", "PreferTheMoon"])
def test_endpoints_have_no_hint_where_no_wish_that_we_know_asks(wish: str) -> None:
    merged = make_merged("c2", traffic_distribution=wish)
    assert hints(import_plan.plan(situation(merged=merged, remote=[ZONED]))) == [[], [], []]


def test_hints_of_another_cluster_are_not_believed() -> None:
    hinted = core.EndpointHints(for_zones=[core.ForZone(name="ours")])
    remote = make_slice(
        make_endpoint("u1", "10.113.4.7", zone="z1", hints=hinted), labels={names.LABEL_SOURCE_CLUSTER: "c2"}
    )
    assert hints(import_plan.plan(situation(merged=make_merged("c2"), remote=[remote]))) == [[]]


def test_mcs19_endpoints_of_a_family_that_the_service_has_not_are_not_imported() -> None:
    v6 = remote_slice("fd00:1::7", name="c2.shop.web.ipv6.x")
    remote = [remote_slice("10.113.4.7"), msgspec.structs.replace(v6, address_type="IPv6")]
    only = import_plan.plan(situation(merged=make_merged("c2", ip_families=["IPv4"]), remote=remote))
    before = import_plan.plan(situation(merged=make_merged("c2"), remote=remote))
    assert imported(only) == {"c2": ["10.113.4.7"]}
    assert imported(before) == {"c2": ["10.113.4.7", "fd00:1::7"]}, "a hub of the version before names no family"


def test_mcs25_a_cluster_without_endpoints_has_a_slice_that_says_so() -> None:
    none = core.EndpointSlice(metadata=remote_slice().metadata, address_type="IPv4")
    plan = import_plan.plan(situation(merged=make_merged("c2", ip_families=["IPv6"]), remote=[none]))
    assert imported(plan) == {"c2": []}


def test_what_the_hub_refused_already_is_counted_too() -> None:
    remote = remote_slice("10.113.4.7", "10.113.0.7")
    noted = msgspec.structs.replace(remote.metadata, annotations={names.ANNOTATION_REFUSED: "3"})
    plan = import_plan.plan(
        situation(merged=make_merged("c2"), remote=[msgspec.structs.replace(remote, metadata=noted)])
    )
    assert plan.dropped == {"c2": 4}
    assert plan.ready is not None
    assert "4 addresses of cluster c2 refused" in plan.ready.message
