"""What a ServiceExport's conditions say."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from mcs_objects import addresses, make_endpoint, make_export, make_merged, make_slice, make_source

from fleetboard.model import fleet, mcs, meta
from syncer.member.exports import conditions
from syncer.member.exports import plan as export_plan

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
WRITTEN = conditions.Delivery(written=True)


def planned(**fields: object) -> export_plan.ExportPlan:
    source = make_source(make_slice(make_endpoint("u1"), make_endpoint("bare")), **fields)
    return export_plan.plan(source, cluster="c1", addresses_of=addresses(u1="10.113.0.5"))


def plan_conditions(
    plan: export_plan.ExportPlan,
    *,
    delivery: conditions.Delivery = WRITTEN,
    merged: fleet.FleetService | None = None,
    before: list[meta.Condition] | None = None,
    now: str = NOW,
) -> dict[str, meta.Condition]:
    status = mcs.ServiceExportStatus(conditions=before or [])
    export_ = msgspec.structs.replace(make_export(generation=3), status=status)
    found = conditions.plan(export_, plan, delivery=delivery, merged=merged, cluster="c1", now=now)
    return {condition.type: condition for condition in found}


def test_mcs9_mcs10_mcs11_an_export_that_the_hub_merged_is_valid_ready_and_without_conflict() -> None:
    found = plan_conditions(planned(), merged=make_merged("c1", "c2"))
    summary = {type_: (one.status, one.reason) for type_, one in found.items()}
    assert summary == {
        "Valid": ("True", "Valid"),
        "Ready": ("True", "Exported"),
        "Conflict": ("False", "NoConflicts"),
    }
    assert {one.observed_generation for one in found.values()} == {3}


def test_endpoints_without_a_fleet_address_are_counted_in_the_message() -> None:
    assert "1 endpoint is left out" in plan_conditions(planned(), merged=make_merged("c1"))["Ready"].message


def test_mcs9_valid_does_not_wait_for_the_hub() -> None:
    found = plan_conditions(planned(), delivery=conditions.Delivery(pending="The hub has not been reached yet."))
    assert (found["Valid"].status, found["Ready"].status, found["Ready"].reason) == ("True", "False", "Pending")


def test_mcs10_an_export_is_pending_until_the_merge_names_this_cluster() -> None:
    found = plan_conditions(planned(), merged=make_merged("c2"))
    assert found["Ready"].reason == "Pending"
    assert "Conflict" not in found


def test_a_merged_export_stays_ready_while_the_hub_is_away() -> None:
    away = conditions.Delivery(pending="The hub can't be reached.")
    ready = plan_conditions(planned(), delivery=away, merged=make_merged("c1"))["Ready"]
    assert (ready.status, ready.reason) == ("True", "Exported")


def test_mcs10_a_refusal_by_the_hub_is_a_failure_with_its_sentence() -> None:
    ready = plan_conditions(
        planned(), delivery=conditions.Delivery(refused="The hub says no."), merged=make_merged("c1")
    )["Ready"]
    assert (ready.status, ready.reason, ready.message) == ("False", "Failed", "The hub says no.")


def test_mcs9_a_missing_service_is_named_and_an_old_conflict_forgotten() -> None:
    before = [meta.Condition(type="Conflict", status="True", reason="PortConflict", message="m")]
    found = plan_conditions(planned(service=None), merged=make_merged("c1"), before=before)
    assert {type_: (one.status, one.reason) for type_, one in found.items()} == {
        "Valid": ("False", "NoService"),
        "Ready": ("False", "Pending"),
    }


def test_mcs11_several_conflicts_are_joined_by_commas_in_one_order() -> None:
    merged = make_merged("c1", "c2", conflicts={"TypeConflict": "T.", "PortConflict": "P."})
    conflict = plan_conditions(planned(), merged=merged)["Conflict"]
    assert (conflict.status, conflict.reason, conflict.message) == ("True", "PortConflict,TypeConflict", "P. T.")


def test_messages_of_an_older_hub_are_cut_to_what_a_condition_holds() -> None:
    merged = make_merged("c1", "c2", conflicts={"PortConflict": "x" * 400_000})
    assert len(plan_conditions(planned(), merged=merged)["Conflict"].message) == 32768


@given(
    st.booleans(),
    st.booleans(),
    st.sampled_from([WRITTEN, conditions.Delivery(pending="p"), conditions.Delivery(refused="r")]),
)
def test_mcs12_an_unchanged_export_gives_unchanged_conditions_whenever_it_is_looked_at(
    valid: bool, member: bool, delivery: conditions.Delivery
) -> None:
    plan = planned() if valid else planned(service=None)
    merged = make_merged("c1" if member else "c2")
    first = plan_conditions(plan, delivery=delivery, merged=merged)
    again = plan_conditions(plan, delivery=delivery, merged=merged, before=list(first.values()), now=LATER)
    assert again == first


def test_mcs12_the_transition_time_moves_only_when_the_status_flips() -> None:
    first = plan_conditions(planned(), merged=make_merged("c2"))
    later = plan_conditions(planned(), merged=make_merged("c1"), before=list(first.values()), now=LATER)
    assert (later["Ready"].last_transition_time, later["Valid"].last_transition_time) == (LATER, NOW)
