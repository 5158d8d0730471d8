"""Which endpoints an export publishes, and in which slices."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from mcs_objects import addresses, make_endpoint, make_service, make_slice, make_source

from fleetboard.model import core, names
from syncer.member.exports import plan as export_plan


def published(plan: export_plan.ExportPlan) -> list[str]:
    return [text for slice_ in plan.slices for endpoint in slice_.endpoints or [] for text in endpoint.addresses]


def test_endpoints_appear_under_the_addresses_that_cnf_wired() -> None:
    source = make_source(make_slice(make_endpoint("u1", "10.244.0.5"), make_endpoint("u2", "10.244.0.6")))
    plan = export_plan.plan(source, cluster="c1", addresses_of=addresses(u1="10.113.0.9", u2="10.113.0.5"))
    assert published(plan) == ["10.113.0.5", "10.113.0.9"]
    assert plan.left_out == 0


def test_pods_without_a_fleet_address_are_left_out_and_counted_once_for_both_families() -> None:
    v4 = make_slice(make_endpoint("u1"), make_endpoint("bare"))
    v6 = make_slice(make_endpoint("u1", "fd00::5"), make_endpoint("bare", "fd00::6"), name="web-6", address_type="IPv6")
    plan = export_plan.plan(make_source(v4, v6), cluster="c1", addresses_of=addresses(u1="10.113.0.5"))
    assert published(plan) == ["10.113.0.5"]
    assert plan.left_out == 1


def test_an_endpoint_that_is_no_pod_is_left_out() -> None:
    manual = core.Endpoint(addresses=["192.0.2.1"])
    plan = export_plan.plan(make_source(make_slice(manual)), cluster="c1", addresses_of=addresses(u1="10.113.0.5"))
    assert published(plan) == []
    assert plan.left_out == 1


def test_mcs25_readiness_serving_and_terminating_are_kept() -> None:
    state = core.EndpointConditions(ready=False, serving=True, terminating=True)
    source = make_source(make_slice(make_endpoint("u1", conditions=state)))
    plan = export_plan.plan(source, cluster="c1", addresses_of=addresses(u1="10.113.0.5"))
    assert [endpoint.conditions for endpoint in plan.slices[0].endpoints or []] == [state]


def test_mcs25_neither_node_nor_pod_leaves_the_cluster() -> None:
    source = make_source(make_slice(make_endpoint("u1", zone="z1")))
    plan = export_plan.plan(source, cluster="c1", addresses_of=addresses(u1="10.113.0.5"))
    [endpoint] = plan.slices[0].endpoints or []
    assert (endpoint.node_name, endpoint.target_ref, endpoint.zone) == (None, None, "z1")


def test_a_pods_hostname_is_kept_and_else_made_of_its_primary_address() -> None:
    named = make_endpoint("u1", hostname="web-0")
    source = make_source(make_slice(named, make_endpoint("u2", "10.244.0.6")))
    plan = export_plan.plan(source, cluster="c1", addresses_of=addresses(u1="10.113.0.5", u2="10.113.0.6"))
    assert [endpoint.hostname for endpoint in plan.slices[0].endpoints or []] == ["web-0", "10-244-0-6"]


def test_a_hostname_made_of_an_ipv6_address_is_a_dns_label() -> None:
    assert export_plan.hostname(["::1"]) == "0000-0000-0000-0000-0000-0000-0000-0001"


def test_an_endpoint_that_moves_between_slices_counts_once_in_its_better_state() -> None:
    old = make_slice(make_endpoint("u1", conditions=core.EndpointConditions(ready=False)), name="a")
    new = make_slice(make_endpoint("u1", conditions=core.EndpointConditions(ready=True)), name="b")
    for slices in ((old, new), (new, old)):
        plan = export_plan.plan(make_source(*slices), cluster="c1", addresses_of=addresses(u1="10.113.0.5"))
        [endpoint] = plan.slices[0].endpoints or []
        assert endpoint.ready


def test_pods_with_different_target_ports_are_in_different_slices() -> None:
    source = make_source(
        make_slice(make_endpoint("u1"), port=8080, name="a"), make_slice(make_endpoint("u2"), port=9090, name="b")
    )
    plan = export_plan.plan(source, cluster="c1", addresses_of=addresses(u1="10.113.0.5", u2="10.113.0.6"))
    assert [[port.port for port in slice_.ports or []] for slice_ in plan.slices] == [[8080], [9090]]


def test_mcs25_families_are_in_slices_of_their_own() -> None:
    source = make_source(make_slice(make_endpoint("u1")))
    plan = export_plan.plan(source, cluster="c1", addresses_of=addresses(u1="10.113.0.5,fd00:1::5"))
    assert [(slice_.address_type, slice_.metadata.name.rpartition(".")[0]) for slice_ in plan.slices] == [
        ("IPv4", "shop.web.ipv4"),
        ("IPv6", "shop.web.ipv6"),
    ]


def test_mcs19_addresses_of_a_family_that_the_service_has_not_are_not_published() -> None:
    service = make_service(ip_families=["IPv4"])
    source = make_source(make_slice(make_endpoint("u1")), service=service)
    plan = export_plan.plan(source, cluster="c1", addresses_of=addresses(u1="10.113.0.5,fd00:1::5"))
    assert published(plan) == ["10.113.0.5"]


def test_mcs19_a_cluster_of_another_family_than_the_fleets_publishes_what_its_pods_have_there() -> None:
    source = make_source(make_slice(make_endpoint("u1", "fd00::5")), service=make_service(ip_families=["IPv6"]))
    plan = export_plan.plan(source, cluster="c1", addresses_of=addresses(u1="10.113.0.5"))
    assert published(plan) == ["10.113.0.5"]


def test_an_empty_slice_shows_that_there_is_no_endpoint() -> None:
    plan = export_plan.plan(make_source(), cluster="c1", addresses_of=addresses())
    assert [slice_.endpoints for slice_ in plan.slices] == [[]]


def test_slices_carry_the_labels_that_the_hub_and_importers_select_by() -> None:
    [slice_] = export_plan.plan(make_source(), cluster="c1", addresses_of=addresses()).slices
    assert slice_.metadata.labels == {
        names.LABEL_MANAGED_BY: "fleetboard.io",
        names.LABEL_PROXY_NAME: "fleetboard",
        names.LABEL_SERVICE_NAME: "web",
        names.LABEL_SERVICE_NAMESPACE: "shop",
        names.LABEL_SOURCE_CLUSTER: "c1",
    }


FIRST = ipaddress.ip_address("10.113.0.0")


def crowd(numbers: Iterable[int]) -> export_plan.ExportPlan:
    """Plan a service with one pod a number, each under the address of that number."""
    endpoints = [make_endpoint(f"u{i}", f"10.244.{i // 250}.{i % 250}") for i in numbers]
    return export_plan.plan(
        make_source(make_slice(*endpoints)), cluster="c1", addresses_of=lambda uid: (FIRST + int(uid[1:]),)
    )


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 2300), seed=st.integers(), cut=st.integers(0, 2300))
def test_any_order_of_endpoints_gives_the_same_slices_of_at_most_1000(count: int, seed: int, cut: int) -> None:
    endpoints = [make_endpoint(f"u{i}", f"10.244.{i // 250}.{i % 250}") for i in range(count)]
    random.Random(seed).shuffle(endpoints)
    source = make_source(make_slice(*endpoints[:cut], name="a"), make_slice(*endpoints[cut:], name="b"))
    plan = export_plan.plan(source, cluster="c1", addresses_of=lambda uid: (FIRST + int(uid[1:]),))
    assert plan == crowd(range(count))
    assert len({slice_.metadata.name for slice_ in plan.slices}) == len(plan.slices)
    assert max(len(slice_.endpoints or []) for slice_ in plan.slices) <= 1000
    assert sorted(published(plan), key=ipaddress.ip_address) == [str(FIRST + i) for i in range(count)]


@settings(max_examples=15, deadline=None)
@given(count=st.integers(990, 5000), new=st.integers(0, 5001))
def test_one_pod_more_or_less_leaves_every_slice_alone_but_its_own(count: int, new: int) -> None:
    few = [number for number in range(count) if number != new]
    before = {slice_.metadata.name: slice_ for slice_ in crowd(few).slices}
    after = {slice_.metadata.name: slice_ for slice_ in crowd([*few, new]).slices}
    kept = {name for name in before.keys() & after.keys() if before[name] == after[name]}
    assert len(before.keys() - kept) == 1
    if len(after) == len(before):
        assert len(after.keys() - kept) == 1
    else:
        (halved,) = before.keys() - kept
        assert {name.startswith(halved) for name in after.keys() - kept} == {True}, (
            "the whole is halved, under new names"
        )


def test_a_service_of_5000_endpoints_takes_no_more_than_twice_the_slices_it_needs() -> None:
    assert 5 <= len(crowd(range(5000)).slices) <= 10


def test_another_port_set_renames_no_slice() -> None:
    old = make_slice(make_endpoint("u1"), port=8080, name="a")
    new = make_slice(make_endpoint("u2", "10.244.0.6"), port=7070, name="b")
    known = addresses(u1="10.113.0.5", u2="10.113.0.6")
    [alone] = export_plan.plan(make_source(old), cluster="c1", addresses_of=known).slices
    assert alone in export_plan.plan(make_source(old, new), cluster="c1", addresses_of=known).slices


def test_port_sets_that_differ_in_the_application_protocol_alone_are_two_slices() -> None:
    endpoints = [make_endpoint(f"u{i}", f"10.244.0.{i}") for i in range(4)]
    known = addresses(**{f"u{i}": f"10.113.0.{i}" for i in range(4)})
    plain, marked = make_slice(*endpoints[::2], name="a"), make_slice(*endpoints[1::2], name="b")
    port = core.EndpointPort(name="http", port=8080, app_protocol="kubernetes.io/h2c")
    marked = msgspec.structs.replace(marked, ports=[port])
    plan = export_plan.plan(make_source(plain, marked), cluster="c1", addresses_of=known)
    assert [len(slice_.endpoints or []) for slice_ in plan.slices] == [2, 2]
    assert len({slice_.metadata.name for slice_ in plan.slices}) == 2


def test_mcs1_a_service_without_an_export_publishes_nothing() -> None:
    source = make_source(make_slice(make_endpoint("u1")), export=None)
    assert export_plan.plan(source, cluster="c1", addresses_of=addresses(u1="10.113.0.5")) == export_plan.NOTHING


def test_mcs5_an_export_without_its_service_withdraws_everything() -> None:
    source = make_source(make_slice(make_endpoint("u1")), service=None)
    plan = export_plan.plan(source, cluster="c1", addresses_of=addresses(u1="10.113.0.5"))
    assert (plan.valid, plan.exported, plan.slices) == ("NoService", None, ())


def test_mcs4_an_external_name_is_not_exportable() -> None:
    source = make_source(service=make_service(type_="ExternalName", cluster_ip=""))
    plan = export_plan.plan(source, cluster="c1", addresses_of=addresses())
    assert (plan.valid, plan.exported) == ("InvalidServiceType", None)
