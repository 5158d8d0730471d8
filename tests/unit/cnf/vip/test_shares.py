"""Only the services that changed are planned again, and nothing is missed by that."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from cnf.vip import plan, shares, table
from fleetboard.model import names
from fleetboard.model.core import Endpoint, EndpointPort, EndpointSlice
from fleetboard.model.fleet import Constituent, FleetService, FleetServiceSpec, ServicePort
from fleetboard.model.meta import ObjectMeta

HTTP = ServicePort(port=80, name="http")
HERE = plan.ClustersetView(cluster="c1", blocks={"c1": (ipaddress.ip_network("10.113.0.0/22"),)})
BLIND = plan.ClustersetView(cluster="c1", blocks={})


def service(name: str) -> FleetService:
    constituents = [Constituent(cluster="c1", ports=[HTTP])]
    spec = FleetServiceSpec(
        namespace="default", name=name, vips=[f"10.112.0.{ord(name)}"], ports=[HTTP], constituents=constituents
    )
    return FleetService(metadata=ObjectMeta(name=f"default.{name}"), spec=spec)


def slice_of(service_name: str, *numbers: int, manager: str = names.MANAGED_BY) -> EndpointSlice:
    labels = {
        names.LABEL_SERVICE_NAME: service_name,
        names.LABEL_SOURCE_CLUSTER: "c1",
        names.LABEL_MANAGED_BY: manager,
    }
    return EndpointSlice(
        metadata=ObjectMeta(name="x", namespace="default", labels=labels),
        endpoints=[Endpoint(addresses=[f"10.113.0.{number}"]) for number in numbers],
        ports=[EndpointPort(name="http", port=8080)],
    )


def fresh(
    services: Mapping[str, FleetService], slices: Mapping[str, EndpointSlice], here: plan.ClustersetView
) -> table.Shares:
    planner = shares.Planner()
    for name, one in services.items():
        planner.put_service(name, one)
    for name, one_slice in slices.items():
        planner.put_slice(name, one_slice)
    return planner.shares(here)


service_events = st.tuples(st.just("service"), st.sampled_from("pqr"), st.none() | st.sampled_from("ab").map(service))
slice_events = st.tuples(
    st.just("slice"),
    st.sampled_from("xyz"),
    st.none() | st.builds(slice_of, st.sampled_from("ab"), st.integers(1, 3), st.integers(4, 6)),
)
looks = st.tuples(st.just("look"), st.just(""), st.sampled_from([HERE, BLIND]))


@given(st.lists(service_events | slice_events | looks, max_size=12))
def test_events_in_turn_lead_where_a_fresh_plan_does(events: list[tuple[str, str, object]]) -> None:
    planner = shares.Planner()
    services: dict[str, FleetService] = {}
    slices: dict[str, EndpointSlice] = {}
    here = HERE
    for _, name, found in events:
        if isinstance(found, plan.ClustersetView):
            here = found
            planner.shares(here)
        elif isinstance(found, EndpointSlice):
            slices[name] = found
            planner.put_slice(name, found)
        elif isinstance(found, FleetService):
            # One object for each service, as they are named.
            services = {other: one for other, one in services.items() if one.spec.name != found.spec.name}
            for other in "pqr":
                planner.put_service(other, services.get(other))
            services[name] = found
            planner.put_service(name, found)
        else:
            services.pop(name, None) if name in "pqr" else slices.pop(name, None)
            planner.put_service(name, None) if name in "pqr" else planner.put_slice(name, None)

    assert planner.shares(here) == fresh(services, slices, here)


def test_what_nothing_happened_to_stays_the_same_object() -> None:
    planner = shares.Planner()
    for name in "ab":
        planner.put_service(name, service(name))
        planner.put_slice(name, slice_of(name, 1, 2))
    before = planner.shares(HERE)

    planner.put_slice("b", slice_of("b", 1))
    planner.put_service("a", service("a"))
    after = planner.shares(HERE)

    assert after["default.a"] is before["default.a"]
    assert [target.address for target in next(iter(after["default.b"].backends.values())).targets] == [
        ipaddress.ip_address("10.113.0.1")
    ]


def test_a_slice_that_turns_anothers_leaves_its_service() -> None:
    planner = shares.Planner()
    planner.put_service("a", service("a"))
    planner.put_slice("x", slice_of("a", 1))
    planner.shares(HERE)

    planner.put_slice("x", slice_of("a", 1, manager="someone-else"))

    assert [backend.targets for backend in planner.shares(HERE)["default.a"].backends.values()] == [()]


def test_endpoints_outside_their_clusters_blocks_are_summed_up() -> None:
    planner = shares.Planner()
    for name in "ab":
        planner.put_slice(name, slice_of(name, 1, 2))

    assert shares.count_dropped(planner.shares(BLIND)) == {"c1": 4}
