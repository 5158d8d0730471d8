"""What becomes of a ServiceImport."""

from __future__ import annotations

import msgspec
import pytest
from mcs_objects import addresses, make_endpoint, make_import, make_merged, make_slice, make_source, situation

from fleetboard.model import fleet, marks, mcs, names, namespaces
from syncer.member.exports import plan as export_plan
from syncer.member.imports import plan as import_plan
from syncer.member.imports.plan import ImportAction


def local(cluster: str = "c1") -> export_plan.ExportPlan:
    source = make_source(make_slice(make_endpoint("u1")))
    return export_plan.plan(source, cluster=cluster, addresses_of=addresses(u1="10.113.0.5"))


def test_mcs2_mcs23_a_merged_service_becomes_an_import_with_addresses_and_families_together() -> None:
    plan = import_plan.plan(situation(merged=make_merged("c2", vips=["10.112.0.9", "fd00::9"])))
    assert plan.spec is not None
    assert (plan.spec.ips, plan.spec.ip_families) == (["10.112.0.9", "fd00::9"], ["IPv4", "IPv6"])
    assert plan.annotations == {names.ANNOTATION_IMPORT_OWNER: "created"}
    assert plan.ready is not None
    assert (plan.ready.status, plan.ready.reason) == ("True", "Ready")


def test_mcs21_mcs23_a_headless_import_has_families_and_never_an_address() -> None:
    plan = import_plan.plan(situation(merged=make_merged("c2", type="Headless", vips=["10.112.0.9"])))
    assert plan.spec is not None
    assert (plan.spec.ips, plan.spec.ip_families) == ([], ["IPv4"])


def test_mcs13_an_import_without_an_address_yet_is_pending_with_neither() -> None:
    plan = import_plan.plan(situation(merged=make_merged("c2", vips=[])))
    assert plan.spec is not None
    assert plan.ready is not None
    assert (plan.spec.ips, plan.spec.ip_families, plan.ready.reason) == ([], [], "Pending")


def test_affinity_is_carried_with_its_timeout() -> None:
    merged = make_merged("c2", session_affinity="ClientIP", session_affinity_timeout_s=60)
    spec = import_plan.plan(situation(merged=merged)).spec
    assert spec is not None
    assert spec.session_affinity_config is not None
    assert spec.session_affinity_config.client_ip == mcs.ClientIPConfig(timeout_seconds=60)


STEERING = [
    "fleetboard.io/managed",
    "x.fleetboard.io/a",
    "argocd.argoproj.io/tracking-id",
    "app.kubernetes.io/instance",
    "kubectl.kubernetes.io/last-applied-configuration",
]


@pytest.mark.parametrize("key", STEERING)
def test_another_cluster_can_not_steer_software_of_this_one(key: str) -> None:
    kept = {"team": "a", "app.kubernetes.io/name": "web"}
    merged = make_merged("c2", exported_annotations={key: "adopted", **kept}, exported_labels={key: "x", **kept})
    plan = import_plan.plan(situation(merged=merged))
    assert plan.annotations == {**kept, names.ANNOTATION_IMPORT_OWNER: "created"}
    assert plan.labels == kept


BAD_KEYS = ["", "a b", "/a", "a/", "a/b/c", "A.io/x", "-a", "x" * 64, "a..b/x", f"{'a.' * 130}io/x"]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_keys_that_no_api_server_takes_are_left_out(key: str) -> None:
    assert marks.take_labels({key: "x"}) == marks.take_annotations({key: "x"}) == {}


def test_labels_have_short_values_and_annotations_fit_together() -> None:
    assert marks.take_labels({"a": "", "b": "A_1.b", "c": "c d!", "d": "x" * 64, "e": "-"}) == {"a": "", "b": "A_1.b"}
    half = "\N{EURO SIGN}" * 11_000
    assert set(marks.take_annotations({"a": half, "b": half, "c": "c d!"})) == {"a", "c"}


def test_mcs22_exporting_clusters_are_the_merges_and_this_one_by_its_own_word() -> None:
    stale = import_plan.plan(situation(merged=make_merged("c1", "c2")))
    fresh = import_plan.plan(situation(merged=make_merged("c2"), own=local()))
    assert (stale.clusters, fresh.clusters) == (("c2",), ("c1", "c2"))


def test_mcs3_the_last_export_takes_our_import_with_it() -> None:
    assert import_plan.plan(situation(current=make_import())).action is ImportAction.REMOVE


def test_a_users_import_is_adopted_and_emptied_when_the_last_export_ends() -> None:
    adopted = import_plan.plan(situation(merged=make_merged("c2"), current=make_import(owner=None)))
    assert adopted.annotations == {names.ANNOTATION_IMPORT_OWNER: "adopted"}
    ended = import_plan.plan(situation(current=make_import(owner="adopted", spec=adopted.spec)))
    assert ended.action is ImportAction.WRITE
    assert ended.spec == mcs.ServiceImportSpec(type="ClusterSetIP")
    assert ended.ready is not None
    assert ended.ready.status == "False"


def test_a_users_import_that_nobody_exports_says_so_and_is_not_changed() -> None:
    plan = import_plan.plan(situation(current=make_import(owner=None)))
    assert (plan.action, plan.spec) == (ImportAction.WRITE, None)
    assert plan.ready is not None
    assert plan.ready.status == "False"


def test_mcs8_kube_system_accepts_no_import_unless_the_user_says_so() -> None:
    assert not namespaces.Namespaces().accept("kube-system")
    assert namespaces.Namespaces().accept("shop")
    assert namespaces.Namespaces(refused=frozenset()).accept("kube-system")
    only = namespaces.Namespaces(accepted=frozenset({"shop"}))
    assert (only.accept("shop"), only.accept("other")) == (True, False)


def test_mcs8_a_users_import_in_a_refused_namespace_says_why_it_stays_empty() -> None:
    refused = {"merged": make_merged("c2"), "accepted": False}
    assert import_plan.plan(situation(**refused)).action is ImportAction.REMOVE
    plan = import_plan.plan(situation(current=make_import(owner=None), **refused))
    assert (plan.action, plan.spec) == (ImportAction.WRITE, None)
    assert plan.ready is not None
    assert "imports.refused" in plan.ready.message


def as_stored(plan: import_plan.ImportPlan) -> mcs.ServiceImport:
    stored = make_import(spec=plan.spec)
    metadata = msgspec.structs.replace(stored.metadata, labels=dict(plan.labels), annotations=dict(plan.annotations))
    return msgspec.structs.replace(stored, metadata=metadata)


def test_an_import_that_is_as_planned_is_not_written() -> None:
    plan = import_plan.plan(situation(merged=make_merged("c2", exported_labels={"team": "a"})))
    assert not import_plan.needs_write(as_stored(plan), plan, written=import_plan.marks_of(plan))
    assert not import_plan.needs_write(as_stored(plan), plan, written=None)


def test_a_label_that_is_no_longer_exported_is_taken_off() -> None:
    old = import_plan.plan(situation(merged=make_merged("c2", exported_labels={"team": "a"})))
    new = import_plan.plan(situation(merged=make_merged("c2")))
    assert import_plan.needs_write(as_stored(old), new, written=import_plan.marks_of(old))
    assert import_plan.needs_write(as_stored(old), new, written=None)


def test_a_users_own_label_costs_no_write_after_the_first() -> None:
    plan = import_plan.plan(situation(merged=make_merged("c2")))
    stored = as_stored(plan)
    metadata = msgspec.structs.replace(stored.metadata, labels={"mine": "1"})
    labelled = msgspec.structs.replace(stored, metadata=metadata)
    assert not import_plan.needs_write(labelled, plan, written=import_plan.marks_of(plan))


def test_a_changed_address_or_port_is_written() -> None:
    plan = import_plan.plan(situation(merged=make_merged("c2")))
    moved = import_plan.plan(situation(merged=make_merged("c2", ports=[fleet.ServicePort(port=81, name="http")])))
    assert import_plan.needs_write(as_stored(plan), moved, written=import_plan.marks_of(plan))


def test_mcs6_traffic_policy_and_distribution_reach_the_import_and_are_left_out_where_nobody_asks() -> None:
    merged = make_merged("c2", internal_traffic_policy="Local", traffic_distribution="PreferClose")
    asked, plain = (import_plan.plan(situation(merged=one)).spec for one in (merged, make_merged("c2")))
    assert asked is not None
    assert plain is not None
    assert (asked.internal_traffic_policy, asked.traffic_distribution) == ("Local", "PreferClose")
    assert (plain.internal_traffic_policy, plain.traffic_distribution) == (None, None)


def test_mcs23_families_of_the_merge_are_the_imports_in_their_order() -> None:
    merged = make_merged("c2", vips=["fd00::9", "10.112.0.9"], ip_families=["IPv6", "IPv4"])
    spec = import_plan.plan(situation(merged=merged, families=("IPv4", "IPv6"))).spec
    assert spec is not None
    assert (spec.ips, spec.ip_families) == (["fd00::9", "10.112.0.9"], ["IPv6", "IPv4"])
    headless = import_plan.plan(situation(merged=make_merged("c2", type="Headless", ip_families=["IPv6"]))).spec
    assert headless is not None
    assert headless.ip_families == ["IPv6"]


@pytest.mark.parametrize("type_", ["ClusterSetIP", "Headless"])
def test_mcs13_a_service_of_a_family_that_this_cluster_has_not_is_not_supported(type_: str) -> None:
    merged = make_merged("c2", type=type_, vips=["fd00::9"], ip_families=["IPv6"])
    ready = import_plan.plan(situation(merged=merged, families=("IPv4",))).ready
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "IPFamilyNotSupported")
    assert "IPv6" in ready.message
    both = import_plan.plan(situation(merged=merged, families=("IPv4", "IPv6"))).ready
    assert both is not None
    assert both.reason == "Ready"


def test_mcs22_an_import_says_whether_there_are_slices_for_it() -> None:
    with_slices = import_plan.plan(situation(merged=make_merged("c1"), own=local()))
    unheard = import_plan.plan(situation(merged=make_merged("c2"), remote=None))
    ended = import_plan.plan(situation(current=make_import(owner="adopted")))
    assert [one.slice_objects for one in (with_slices, unheard, ended)] == ["Present", "Present", "Absent"]


def test_mcs24_ports_are_there_though_there_are_none() -> None:
    spec = import_plan.plan(situation(merged=make_merged("c2", ports=[]))).spec
    assert spec is not None
    assert msgspec.to_builtins(spec)["ports"] == []
