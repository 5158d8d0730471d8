"""One service from all exports of its name (KEP-1645)."""

from __future__ import annotations

import random

import pytest
from hub_objects import make_exported, make_port
from hypothesis import given
from hypothesis import strategies as st

from fleetboard.model import fleet
from syncer.hub import merge

_ports = st.lists(
    st.builds(
        fleet.ServicePort,
        port=st.integers(80, 84),
        name=st.sampled_from(["", "a", "b", "c"]),
        protocol=st.sampled_from(["TCP", "UDP"]),
        app_protocol=st.sampled_from(["", "http"]),
    ),
    max_size=4,
)
_specs = st.builds(
    fleet.ExportedServiceSpec,
    namespace=st.just("shop"),
    name=st.just("web"),
    type=st.sampled_from(["ClusterSetIP", "Headless"]),
    ports=_ports,
    session_affinity=st.sampled_from(["None", "ClientIP"]),
    session_affinity_timeout_s=st.sampled_from([0, 60]),
    exported_labels=st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")),
)


@st.composite
def _exports(draw: st.DrawFn) -> list[merge.Export]:
    clusters = draw(st.lists(st.sampled_from(["c1", "c2", "c3", "c4"]), min_size=1, unique=True))
    # Few distinct seconds, so that ties are common.
    seen = st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"])
    return [merge.Export(cluster, draw(seen), draw(_specs)) for cluster in clusters]


def make_export(cluster: str, second: int, **spec: object) -> merge.Export:
    return merge.Export(cluster, f"2026-01-01T00:00:{second:02}Z", make_exported(**spec).spec)  # type: ignore[arg-type]


@given(_exports(), st.randoms(use_true_random=False))
def test_order_of_arrival_never_matters(exports: list[merge.Export], rng: random.Random) -> None:
    shuffled = list(exports)
    rng.shuffle(shuffled)
    assert merge.merge(shuffled, vips=["10.112.0.1"]) == merge.merge(exports, vips=["10.112.0.1"])


@given(_exports())
def test_no_port_name_and_no_port_number_appears_twice(exports: list[merge.Export]) -> None:
    ports = merge.merge(exports).ports
    assert len({port.name for port in ports}) == len(ports)
    assert len({(port.protocol, port.port) for port in ports}) == len(ports)


@given(_exports())
def test_removal_of_the_youngest_changes_nothing_for_others(exports: list[merge.Export]) -> None:
    ordered = sorted(exports, key=lambda export: (export.first_seen, export.cluster))
    if len(ordered) < 2:
        return
    whole, rest = merge.merge(ordered), merge.merge(ordered[:-1])
    assert whole.ports[: len(rest.ports)] == rest.ports
    assert whole.constituents[:-1] == rest.constituents
    assert (whole.type, whole.session_affinity, whole.exported_labels) == (
        rest.type,
        rest.session_affinity,
        rest.exported_labels,
    )


@given(_exports())
def test_every_port_that_clashes_with_none_is_exposed(exports: list[merge.Export]) -> None:
    merged = merge.merge(exports).ports
    for port in (port for export in exports for port in export.spec.ports):
        assert any(port.name == one.name or (port.protocol, port.port) == (one.protocol, one.port) for one in merged)


@given(_exports())
def test_exports_that_agree_have_no_conflict(exports: list[merge.Export]) -> None:
    same = [merge.Export(export.cluster, export.first_seen, exports[0].spec) for export in exports]
    assert merge.merge(same).conflicts == {}


def test_the_oldest_wins_a_port_and_the_younger_adds_its_own() -> None:
    merged = merge.merge(
        [
            make_export("c2", 2, ports=[make_port(8080, "http"), make_port(90, "metrics")]),
            make_export("c1", 1, ports=[make_port(80, "http")]),
        ]
    )
    assert merged.ports == [make_port(80, "http"), make_port(90, "metrics")]
    assert set(merged.conflicts) == {"PortConflict"}


def test_additional_ports_alone_are_a_conflict() -> None:
    merged = merge.merge(
        [make_export("c1", 1, ports=[make_port(80)]), make_export("c2", 2, ports=[make_port(80), make_port(90, "x")])]
    )
    assert "PortConflict" in merged.conflicts


def test_ports_in_another_order_are_no_conflict() -> None:
    first, second = make_port(80, "a"), make_port(81, "b")
    merged = merge.merge([make_export("c1", 1, ports=[first, second]), make_export("c2", 2, ports=[second, first])])
    assert merged.conflicts == {}


def test_one_number_of_two_protocols_is_two_ports() -> None:
    ports = [make_port(53, "udp", "UDP"), make_port(53, "tcp", "TCP")]
    assert merge.merge([make_export("c1", 1, ports=ports)]).ports == ports


@pytest.mark.parametrize(
    ("field", "old", "new", "reason"),
    [
        ("type", "ClusterSetIP", "Headless", "TypeConflict"),
        ("session_affinity", "None", "ClientIP", "SessionAffinityConflict"),
        ("exported_labels", {"a": "1"}, {"a": "1", "b": "2"}, "LabelsConflict"),
        ("exported_annotations", {}, {"a": "1"}, "AnnotationsConflict"),
    ],
)
def test_whole_values_of_the_oldest_win(field: str, old: object, new: object, reason: str) -> None:
    merged = merge.merge([make_export("c1", 1, **{field: new}), make_export("c2", 0, **{field: old})])
    assert getattr(merged, field) == old
    assert reason in merged.conflicts


def test_the_conflict_names_winner_and_number_of_those_who_disagree() -> None:
    exports = [make_export("c1", 1), make_export("c2", 2, type="Headless"), make_export("c3", 3)]
    assert merge.merge(exports).conflicts["TypeConflict"] == (
        'Conflicting type. Using "ClusterSetIP" from oldest service export in "c1". 1/3 clusters disagree.'
    )


def test_affinity_time_outs_conflict_only_where_there_is_affinity() -> None:
    quiet = [make_export("c1", 1, session_affinity_timeout_s=5), make_export("c2", 2)]
    assert merge.merge(quiet).conflicts == {}
    sticky = [
        make_export("c1", 1, session_affinity="ClientIP", session_affinity_timeout_s=5),
        make_export("c2", 2, session_affinity="ClientIP", session_affinity_timeout_s=6),
    ]
    assert set(merge.merge(sticky).conflicts) == {"SessionAffinityConfigConflict"}


def test_a_headless_service_has_no_address() -> None:
    assert merge.merge([make_export("c1", 1, type="Headless")], vips=["10.112.0.9"]).vips == []


def test_what_a_member_says_of_its_age_plays_no_part() -> None:
    exports = [
        make_export("c1", 2, export_created="1999-01-01T00:00:00Z", type="Headless"),
        make_export("c2", 1, export_created="2026-01-01T00:00:00Z"),
    ]
    assert merge.merge(exports).type == "ClusterSetIP"
