"""A service has a limited number of ports, whichever clusters export them.

A port beyond the limit gets no traffic, and its exporter is told why.
"""

from __future__ import annotations

import random

import msgspec
import pytest
from hub_objects import as_stored, make_merge_export, make_port
from hypothesis import given
from hypothesis import strategies as st
from mcs_objects import addresses, make_endpoint, make_export, make_service, make_slice, make_source

from fleetboard.model import core, fleet, meta
from syncer.hub import merge, services
from syncer.member.exports import conditions, plan
from syncer.rules import admission, slices

CLUSTERS = ["c1", "c2", "c3", "c4", "c5"]
ETCD_REQUEST = 1536 * 1024
_ports = st.lists(
    st.builds(
        fleet.ServicePort,
        port=st.integers(80, 89),
        name=st.sampled_from(["", *"abcdefgh", "a-name-that-is-longer-than-the-others"]),
        protocol=st.sampled_from(["TCP", "UDP"]),
    ),
    max_size=6,
)
_rooms = st.builds(merge.MergeLimits, ports=st.integers(1, 12), port_bytes=st.integers(0, 700))


@st.composite
def _exports(draw: st.DrawFn) -> list[merge.Export]:
    clusters = draw(st.lists(st.sampled_from(CLUSTERS), min_size=1, unique=True))
    return [make_merge_export(cluster, draw(st.integers(0, 1)), ports=draw(_ports)) for cluster in clusters]


def merged(exports: list[merge.Export], room: merge.MergeLimits) -> fleet.FleetServiceSpec:
    return merge.merge(exports, vips=["10.112.0.1"], room=room)


@given(_exports(), _rooms, st.randoms(use_true_random=False))
def test_mcs14_order_of_arrival_never_matters_where_room_is_short(
    exports: list[merge.Export], room: merge.MergeLimits, rng: random.Random
) -> None:
    shuffled = list(exports)
    rng.shuffle(shuffled)
    assert merged(shuffled, room) == merged(exports, room)


@given(_exports(), _rooms)
def test_mcs15_removal_of_the_youngest_changes_nothing_for_others_where_room_is_short(
    exports: list[merge.Export], room: merge.MergeLimits
) -> None:
    ordered = sorted(exports, key=lambda export: (export.first_seen, export.cluster))
    if len(ordered) < 2:
        return
    whole, rest = merged(ordered, room), merged(ordered[:-1], room)
    assert whole.constituents[:-1] == rest.constituents
    assert whole.ports[: len(rest.ports)] == rest.ports
    for one in rest.constituents:
        assert slices.served_ports(one.ports, rest) == slices.served_ports(one.ports, whole)


@given(_exports(), _rooms)
def test_the_room_is_kept_and_a_port_left_out_is_reported(exports: list[merge.Export], room: merge.MergeLimits) -> None:
    spec = merged(exports, room)

    assert len(spec.ports) <= room.ports
    assert sum(len(msgspec.json.encode(port)) + 1 for one in spec.constituents for port in one.ports) <= room.port_bytes
    given_ports = {export.cluster: export.spec.ports for export in exports}
    for one in spec.constituents:
        assert (one.ports_left_out == "") == (one.ports == given_ports[one.cluster])
        rest = iter(given_ports[one.cluster])
        assert all(port in rest for port in one.ports)
    crowded = any(one.ports_left_out for one in spec.constituents)
    assert crowded == ("has room for" in spec.conflicts.get("PortConflict", ""))


@given(_exports(), _rooms)
def test_mcs17_every_port_of_the_service_is_served_by_somebody_where_room_is_short(
    exports: list[merge.Export], room: merge.MergeLimits
) -> None:
    spec = merged(exports, room)
    served = {port for one in spec.constituents for port in slices.served_ports(one.ports, spec)}
    assert {(port.name, port.protocol) for port in spec.ports} == served


def test_the_oldest_export_that_is_admitted_always_has_room() -> None:
    ports = [
        make_port(1 + number, f"p{number:0>62}", app_protocol=f"{'x' * 66}/{'y' * 63}")
        for number in range(admission.MAX_PORTS)
    ]
    oldest = make_merge_export("c1", 0, ports=ports)
    assert admission.refuse_size(oldest.spec) is None
    spec = merge.merge([make_merge_export("c2", 1, ports=[make_port(9999, "other")]), oldest])
    assert spec.ports == ports


def _most_of(number: int, *, first_port: int) -> merge.Export:
    """Return as much as a cluster may export, with what takes more bytes of etcd than of a plain count."""
    ports = [
        make_port(first_port + port, f"p{first_port + port:0>62}", app_protocol=f"{'x' * 26}/{'y' * 63}")
        for port in range(256)
    ]
    left = admission.MAX_EXPORT_BYTES - len(msgspec.json.encode(make_merge_export("c", 0, ports=ports).spec)) - 100
    annotations = {f"example.org/{key}": "<" * 10 for key in range(left // 85)}
    one = make_merge_export(f"c{number:0>62}", number % 60, ports=ports, exported_annotations=annotations)
    assert admission.refuse_size(one.spec) is None
    assert admission.refuse_ports(ports) is None
    return one


@pytest.mark.parametrize("step", [0, 256])
def test_two_hundred_and_fifty_clusters_that_export_all_they_may_fit_into_etcd(step: int) -> None:
    """With the same ports, each one's list takes its bytes; with others, the union does."""
    exports = [_most_of(number, first_port=1 + number * step) for number in range(250)]

    spec = merge.merge(exports, vips=["10.112.0.1"])

    stored = as_stored(services.render_spec(spec))
    assert len(stored) < ETCD_REQUEST - 256 * 1024, "managed fields and metadata come on top"
    assert max(map(len, spec.conflicts.values())) < 1024


def test_the_sentence_says_what_is_left_out_and_what_there_is_room_for() -> None:
    room = merge.MergeLimits(ports=2, port_bytes=10_000)
    spec = merged([make_merge_export("c1", 0, ports=[make_port(80, "a")]), _three("c2", 1), _three("c3", 2)], room)

    assert [one.ports_left_out for one in spec.constituents] == [
        "",
        "spec.ports: 2 of 3 ports are left out, beginning with c:82/TCP: expected at most 2 different ports "
        "and 10000 bytes of ports from all exports of the service; older exports come first.",
        "spec.ports: 2 of 3 ports are left out, beginning with c:82/TCP: expected at most 2 different ports "
        "and 10000 bytes of ports from all exports of the service; older exports come first.",
    ]
    assert spec.conflicts["PortConflict"].endswith(
        " clusters disagree. The service has room for 2 different ports and 10000 bytes of ports. "
        'Left out: 2 of "c2", 2 of "c3".'
    )


def _three(cluster: str, second: int) -> merge.Export:
    return make_merge_export(cluster, second, ports=[make_port(81, "b"), make_port(82, "c"), make_port(83, "d")])


def _conditions(own: fleet.Constituent, *, type_: str = "ClusterSetIP") -> dict[str, meta.Condition]:
    planned = plan.plan(make_source(), cluster="c1", addresses_of=addresses())
    spec = fleet.FleetServiceSpec(
        namespace="shop", name="web", constituents=[own], conflicts={"PortConflict": "No room."}, type=type_
    )
    planned_conditions = conditions.plan(
        make_export(),
        planned,
        delivery=conditions.Delivery(written=True),
        merged=fleet.FleetService(spec=spec),
        cluster="c1",
        now="2026-01-01T00:00:00Z",
    )
    return {condition.type: condition for condition in planned_conditions}


def test_an_export_that_lost_ports_says_so_and_one_that_lost_all_is_not_ready() -> None:
    some = _conditions(fleet.Constituent(cluster="c1", ports=[make_port(80, "http")], ports_left_out="Left out."))
    assert (some["Ready"].status, some["Ready"].reason) == ("True", "Exported")
    assert some["Ready"].message == "Exported to the clusterset. Left out."
    assert some["Conflict"].reason == "PortConflict"

    none = _conditions(fleet.Constituent(cluster="c1", ports_left_out="Left out."))
    assert (none["Ready"].status, none["Ready"].reason, none["Ready"].message) == ("False", "Failed", "Left out.")

    headless = _conditions(fleet.Constituent(cluster="c1", ports_left_out="Left out."), type_="Headless")
    assert headless["Ready"].status == "True", "its pods are in the name's answer"


def test_a_clusters_own_endpoints_get_no_traffic_of_a_port_that_it_lost() -> None:
    """Another cluster exports it too, and so the service has it."""
    http, metrics = make_port(80, "http"), make_port(81, "metrics")
    service = make_service(ports=[core.CoreServicePort(port=port.port, name=port.name) for port in (http, metrics)])
    two_ports = make_slice(make_endpoint("p1"))
    two_ports = msgspec.structs.replace(
        two_ports, ports=[core.EndpointPort(name="http", port=8080), core.EndpointPort(name="metrics", port=9090)]
    )
    source = make_source(two_ports, service=service)
    planned = plan.plan(source, cluster="c1", addresses_of=addresses(p1="10.113.0.5"))
    assert planned.exported is not None
    older = fleet.Constituent(cluster="c2", ports=[http, metrics])
    own = fleet.Constituent(cluster="c1", ports=[http], ports_left_out="spec.ports: 1 of 2 ports are left out.")
    spec = fleet.FleetServiceSpec(namespace="shop", name="web", ports=[http, metrics], constituents=[older, own])

    (rendered,) = [slices.render_own(one, planned.exported.spec, spec, cluster="c1") for one in planned.slices]

    assert [port.name for port in rendered.ports or ()] == ["http"]
