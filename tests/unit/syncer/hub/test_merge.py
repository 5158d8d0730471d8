"""One service from all exports of its name (KEP-1645)."""

from __future__ import annotations

import ipaddress
import random
import re

import msgspec
import pytest
from hub_objects import make_merge_export, make_port
from hypothesis import given
from hypothesis import strategies as st

from fleetboard.model import fleet
from syncer.hub import merge
from syncer.rules import slices

BOTH, VIPS = ("IPv4", "IPv6"), ["10.112.0.1", "fd00::1"]

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
    internal_traffic_policy=st.sampled_from(["", "Cluster", "Local"]),
    traffic_distribution=st.sampled_from(["", "PreferClose", "PreferSameZone"]),
    ip_families=st.sampled_from([[], ["IPv4"], ["IPv6"], ["IPv4", "IPv6"], ["IPv6", "IPv4"]]),
    exported_labels=st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")),
    exported_annotations=st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")),
)


@st.composite
def _exports(draw: st.DrawFn) -> list[merge.Export]:
    clusters = draw(st.lists(st.sampled_from(["c1", "c2", "c3", "c4"]), min_size=1, unique=True))
    # Few distinct seconds, so that ties are common.
    seen = st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"])
    return [merge.Export(cluster, draw(seen), draw(_specs)) for cluster in clusters]


@given(_exports(), st.randoms(use_true_random=False))
def test_mcs14_order_of_arrival_never_matters(exports: list[merge.Export], rng: random.Random) -> None:
    shuffled = list(exports)
    rng.shuffle(shuffled)
    assert merge.merge(shuffled, vips=VIPS, families=BOTH) == merge.merge(exports, vips=VIPS, families=BOTH)


@given(_exports())
def test_mcs16_no_port_name_and_no_port_number_appears_twice(exports: list[merge.Export]) -> None:
    ports = merge.merge(exports).ports
    assert len({port.name for port in ports}) == len(ports)
    assert len({(port.protocol, port.port) for port in ports}) == len(ports)


@given(_exports())
def test_mcs15_removal_of_the_youngest_changes_nothing_for_others(exports: list[merge.Export]) -> None:
    ordered = sorted(exports, key=lambda export: (export.first_seen, export.cluster))
    if len(ordered) < 2:
        return
    whole, rest = (merge.merge(some, vips=VIPS, families=BOTH) for some in (ordered, ordered[:-1]))
    own = [port for port in whole.ports if port not in rest.ports]
    assert [port for port in whole.ports if port not in own] == rest.ports
    assert all(port in ordered[-1].spec.ports for port in own), "what goes with it was its own alone"
    without: dict[str, object] = {"ports": [], "constituents": [], "conflicts": {}}
    assert msgspec.structs.replace(whole, **without) == msgspec.structs.replace(rest, **without)
    assert whole.constituents[:-1] == rest.constituents
    # Nor do the others' endpoints get other traffic than before.
    for one in rest.constituents:
        assert slices.served_ports(one.ports, rest) == slices.served_ports(one.ports, whole)


@given(_exports())
def test_mcs17_every_port_goes_to_the_oldest_that_exposes_it_and_to_none_that_exposes_another(
    exports: list[merge.Export],
) -> None:
    merged = merge.merge(exports)
    exposed = {export.cluster: {port.identity for port in export.spec.ports} for export in exports}
    for port in merged.ports:
        behind = {
            one.cluster
            for one in merged.constituents
            if (port.name, port.protocol) in slices.served_ports(one.ports, merged)
        }
        assert behind == {cluster for cluster, own in exposed.items() if port.identity in own}
        assert behind, "a port that nobody serves is not exposed"


@given(_exports())
def test_mcs16_every_port_that_clashes_with_none_is_exposed(exports: list[merge.Export]) -> None:
    merged = merge.merge(exports).ports
    for port in (port for export in exports for port in export.spec.ports):
        assert any(port.name == one.name or (port.protocol, port.port) == (one.protocol, one.port) for one in merged)


@given(_exports())
def test_mcs2_exports_that_agree_are_one_service_without_conflict(exports: list[merge.Export]) -> None:
    same = [merge.Export(export.cluster, export.first_seen, exports[0].spec) for export in exports]
    assert merge.merge(same).conflicts == {}


def test_mcs16_the_oldest_wins_a_port_and_the_younger_adds_its_own() -> None:
    merged = merge.merge(
        [
            make_merge_export("c2", 2, ports=[make_port(8080, "http"), make_port(90, "metrics")]),
            make_merge_export("c1", 1, ports=[make_port(80, "http")]),
        ]
    )
    assert merged.ports == [make_port(80, "http"), make_port(90, "metrics")]
    assert set(merged.conflicts) == {"PortConflict"}


def test_mcs16_additional_ports_alone_are_a_conflict() -> None:
    merged = merge.merge(
        [
            make_merge_export("c1", 1, ports=[make_port(80)]),
            make_merge_export("c2", 2, ports=[make_port(80), make_port(90, "x")]),
        ]
    )
    assert "PortConflict" in merged.conflicts


def test_mcs16_ports_in_another_order_are_no_conflict() -> None:
    first, second = make_port(80, "a"), make_port(81, "b")
    merged = merge.merge(
        [make_merge_export("c1", 1, ports=[first, second]), make_merge_export("c2", 2, ports=[second, first])]
    )
    assert merged.conflicts == {}


def test_mcs16_one_number_of_two_protocols_is_two_ports() -> None:
    ports = [make_port(53, "udp", "UDP"), make_port(53, "tcp", "TCP")]
    assert merge.merge([make_merge_export("c1", 1, ports=ports)]).ports == ports


@pytest.mark.parametrize(
    ("field", "old", "new", "reason"),
    [
        ("type", "ClusterSetIP", "Headless", "TypeConflict"),
        ("session_affinity", "None", "ClientIP", "SessionAffinityConflict"),
        ("internal_traffic_policy", "Cluster", "Local", "InternalTrafficPolicyConflict"),
        ("traffic_distribution", "PreferClose", "", "TrafficDistributionConflict"),
        ("exported_labels", {"a": "1"}, {"a": "1", "b": "2"}, "LabelsConflict"),
        ("exported_annotations", {}, {"a": "1"}, "AnnotationsConflict"),
    ],
)
def test_mcs18_whole_values_of_the_oldest_win(field: str, old: object, new: object, reason: str) -> None:
    merged = merge.merge([make_merge_export("c1", 1, **{field: new}), make_merge_export("c2", 0, **{field: old})])
    assert getattr(merged, field) == old
    assert reason in merged.conflicts


def test_mcs11_the_conflict_names_winner_and_number_of_those_who_disagree() -> None:
    exports = [make_merge_export("c1", 1), make_merge_export("c2", 2, type="Headless"), make_merge_export("c3", 3)]
    assert merge.merge(exports).conflicts["TypeConflict"] == (
        'Conflicting type. Using "ClusterSetIP" from oldest service export in "c1". 1/3 clusters disagree.'
    )


def test_mcs18_affinity_time_outs_conflict_only_where_there_is_affinity() -> None:
    quiet = [make_merge_export("c1", 1, session_affinity_timeout_s=5), make_merge_export("c2", 2)]
    assert merge.merge(quiet).conflicts == {}
    sticky = [
        make_merge_export("c1", 1, session_affinity="ClientIP", session_affinity_timeout_s=5),
        make_merge_export("c2", 2, session_affinity="ClientIP", session_affinity_timeout_s=6),
    ]
    assert set(merge.merge(sticky).conflicts) == {"SessionAffinityConfigConflict"}


def test_mcs21_a_headless_service_has_no_address() -> None:
    assert merge.merge([make_merge_export("c1", 1, type="Headless")], vips=["10.112.0.9"]).vips == []


def test_mcs14_what_a_member_says_of_its_age_plays_no_part() -> None:
    exports = [
        make_merge_export("c1", 2, export_created="1999-01-01T00:00:00Z", type="Headless"),
        make_merge_export("c2", 1, export_created="2026-01-01T00:00:00Z"),
    ]
    assert merge.merge(exports).type == "ClusterSetIP"


def test_mcs18_an_exporter_that_knows_no_policy_means_the_default_one() -> None:
    assert (
        merge.merge(
            [make_merge_export("c1", 1), make_merge_export("c2", 2, internal_traffic_policy="Cluster")]
        ).conflicts
        == {}
    )


def test_mcs15_an_application_protocol_that_the_oldest_declares_takes_nobodys_endpoints_away() -> None:
    exports = [
        make_merge_export("c1", 1, ports=[make_port(80, "http", app_protocol="kubernetes.io/h2c")]),
        make_merge_export("c2", 2, ports=[make_port(80, "http")]),
    ]
    merged = merge.merge(exports)
    assert set(merged.conflicts) == {"PortConflict"}
    assert [port.app_protocol for port in merged.ports] == ["kubernetes.io/h2c"]
    assert slices.served_ports(exports[1].spec.ports, merged) == {("http", "TCP")}


def test_mcs19_the_oldest_export_says_which_families_and_in_which_order() -> None:
    exports = [
        make_merge_export("c1", 1, ip_families=["IPv6", "IPv4"]),
        make_merge_export("c2", 2, ip_families=["IPv4"]),
    ]
    merged = merge.merge(exports, vips=VIPS, families=BOTH)
    assert (merged.ip_families, merged.vips) == (["IPv6", "IPv4"], ["fd00::1", "10.112.0.1"])
    assert merged.conflicts == {
        "IPFamilyConflict": 'Conflicting address families. Using IPv6, IPv4 from oldest service export in "c1". '
        "1/2 clusters disagree."
    }


def test_mcs19_families_in_another_order_are_no_conflict() -> None:
    exports = [
        make_merge_export("c1", 1, ip_families=["IPv6", "IPv4"]),
        make_merge_export("c2", 2, ip_families=["IPv4", "IPv6"]),
    ]
    assert merge.merge(exports, vips=VIPS, families=BOTH).conflicts == {}


@pytest.mark.parametrize("own", [[], ["IPv6"]])
def test_mcs19_a_cluster_of_another_family_than_the_fleets_serves_the_fleets(own: list[str]) -> None:
    exports = [make_merge_export("c1", 1, ip_families=own), make_merge_export("c2", 2, ip_families=["IPv4"])]
    merged = merge.merge(exports, vips=VIPS[:1], families=("IPv4",))
    assert (merged.ip_families, merged.vips, merged.conflicts) == (["IPv4"], VIPS[:1], {})


@given(_exports())
def test_mcs19_families_are_never_doubled_and_addresses_go_by_them(exports: list[merge.Export]) -> None:
    merged = merge.merge(exports, vips=VIPS, families=BOTH)
    assert len(set(merged.ip_families)) == len(merged.ip_families) >= 1
    if merged.type != merge.HEADLESS:
        assert [f"IPv{ipaddress.ip_address(vip).version}" for vip in merged.vips] == merged.ip_families


def test_mcs11_every_reason_is_one_of_the_specifications() -> None:
    young: dict[str, object] = {
        "type": "Headless",
        "session_affinity": "ClientIP",
        "session_affinity_timeout_s": 60,
        "internal_traffic_policy": "Local",
        "traffic_distribution": "PreferClose",
        "ip_families": ["IPv4"],
        "exported_labels": {"a": "1"},
        "exported_annotations": {"a": "1"},
        "ports": [make_port(81, "x")],
    }
    found = merge.merge([make_merge_export("c1", 1), make_merge_export("c2", 2, **young)], families=BOTH).conflicts
    assert set(found) == {
        "PortConflict",
        "TypeConflict",
        "SessionAffinityConflict",
        "SessionAffinityConfigConflict",
        "LabelsConflict",
        "AnnotationsConflict",
        "InternalTrafficPolicyConflict",
        "TrafficDistributionConflict",
        "IPFamilyConflict",
    }
    assert all(message.endswith('in "c1". 1/2 clusters disagree.') for message in found.values())
    joined = ",".join(sorted(found))
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", joined)
    assert len(joined) <= 1024


def test_a_message_stays_short_however_many_ports_there_are() -> None:
    many = [make_port(1 + number, f"port-number-{number}") for number in range(256)]
    conflicts = merge.merge([make_merge_export("c1", 0, ports=many), make_merge_export("c2", 1, ports=[])]).conflicts
    assert len(conflicts["PortConflict"]) < 1024
    assert conflicts["PortConflict"].endswith("1/2 clusters disagree.")
