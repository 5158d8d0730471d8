"""Which endpoints answer for a virtual address."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest

from cnf.vip import plan, shares, table
from cnf.vip.table import Backend, BackendAddress, ExportedPort, Frontend, Protocol, VipTable
from fleetboard.model import names
from fleetboard.model.core import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from fleetboard.model.fleet import (
    Constituent,
    FleetService,
    FleetServiceSpec,
    Peer,
    PeerHealth,
    PeerSpec,
    PeerStatus,
    ServicePort,
)
from fleetboard.model.meta import ObjectMeta

BLOCKS = {"c1": "10.113.0.0/22", "c2": "10.114.0.0/22", "c3": "10.115.0.0/22"}
HTTP = ServicePort(port=80, name="http")
VIP = "10.112.0.7"


def peer(cluster: str, *, reachable: bool = True) -> Peer:
    return Peer(
        metadata=ObjectMeta(name=cluster),
        spec=PeerSpec(cluster=cluster),
        status=PeerStatus(cluster_cidrs=[BLOCKS[cluster]], health=PeerHealth(reachable=reachable)),
    )


UNBELIEVED = ["127.0.0.1", "169.254.169.254", "224.0.0.9", "0.0.0.0", "::1", "fe80::1", "ff02::1", "::"]
"""Loopback, link-local, multicast and unspecified addresses."""
PEERS = [peer(cluster) for cluster in BLOCKS]


def service(
    *,
    ports: list[ServicePort] | None = None,
    exporters: dict[str, list[ServicePort]] | None = None,
    type_: str = "ClusterSetIP",
    affinity: str = "None",
) -> FleetService:
    exporters = {"c1": [HTTP], "c2": [HTTP]} if exporters is None else exporters
    return FleetService(
        spec=FleetServiceSpec(
            namespace="default",
            name="web",
            type=type_,
            vips=[VIP] if type_ == "ClusterSetIP" else [],
            ports=[HTTP] if ports is None else ports,
            session_affinity=affinity,
            constituents=[Constituent(cluster=cluster, ports=own) for cluster, own in exporters.items()],
        )
    )


def endpoint(
    address: str, *, ready: bool | None = None, serving: bool | None = None, terminating: bool | None = None
) -> Endpoint:
    conditions = EndpointConditions(ready=ready, serving=serving, terminating=terminating)
    return Endpoint(addresses=[address], conditions=conditions)


def slice_of(
    cluster: str, *endpoints: Endpoint, ports: list[EndpointPort] | None = None, manager: str = names.MANAGED_BY
) -> EndpointSlice:
    labels = {
        names.LABEL_SERVICE_NAME: "web",
        names.LABEL_SOURCE_CLUSTER: cluster,
        names.LABEL_MANAGED_BY: manager,
    }
    return EndpointSlice(
        metadata=ObjectMeta(name=f"web-{cluster}", namespace="default", labels=labels),
        endpoints=list(endpoints),
        ports=[EndpointPort(name="http", port=8080)] if ports is None else ports,
    )


def plan_from_c1(
    services: list[FleetService],
    slices: list[EndpointSlice],
    *,
    peers: list[Peer] = PEERS,
    local: str = "10.113.0.0/26",
    zone: str = "",
    isolated: bool = False,
) -> VipTable:
    network = ipaddress.ip_network(local)
    planner = shares.Planner()
    for number, one in enumerate(services):
        planner.put_service(str(number), one)
    for number, one_slice in enumerate(slices):
        planner.put_slice(str(number), one_slice)
    here = plan.view_clusterset(peers, cluster="c1", node_blocks=[network], zone=zone, isolated=isolated)
    return table.combine(planner.shares(here))


def answering(planned: VipTable, port: int = 80, protocol: Protocol = "tcp") -> list[str]:
    backend = planned.backends[Frontend(ipaddress.ip_address(VIP), protocol, port)]
    return [f"{target.address}:{target.port}" for target in backend.targets]


def test_ready_endpoints_of_all_exporters_answer_on_their_target_ports() -> None:
    other_port = [EndpointPort(name="http", port=9090)]
    slices = [slice_of("c1", endpoint("10.113.0.2")), slice_of("c2", endpoint("10.114.0.2"), ports=other_port)]

    assert answering(plan_from_c1([service()], slices)) == ["10.113.0.2:8080", "10.114.0.2:9090"]


def test_ports_are_joined_by_name_and_protocol() -> None:
    ports = [ServicePort(port=53, name="dns", protocol="UDP"), ServicePort(port=53, name="dns-tcp")]
    targets = [EndpointPort(name="dns", protocol="UDP", port=5300), EndpointPort(name="dns-tcp", port=5301)]
    slices = [slice_of("c2", endpoint("10.114.0.2"), ports=targets)]

    planned = plan_from_c1([service(ports=ports, exporters={"c2": ports})], slices)

    assert answering(planned, 53, "udp") == ["10.114.0.2:5300"]
    assert answering(planned, 53) == ["10.114.0.2:5301"]


@pytest.mark.parametrize(
    "own",
    [
        pytest.param([ServicePort(port=81, name="http")], id="other number under the name"),
        pytest.param([ServicePort(port=80, name="web")], id="other name"),
        pytest.param([ServicePort(port=80, name="http", protocol="UDP")], id="other protocol"),
        pytest.param([], id="lacks it"),
    ],
)
def test_a_cluster_that_exports_another_port_gets_no_traffic(own: list[ServicePort]) -> None:
    slices = [slice_of("c1", endpoint("10.113.0.2")), slice_of("c2", endpoint("10.114.0.2"))]

    assert answering(plan_from_c1([service(exporters={"c1": [HTTP], "c2": own})], slices)) == ["10.113.0.2:8080"]


def test_a_cluster_that_doesnt_export_the_service_gets_no_traffic() -> None:
    assert answering(plan_from_c1([service(exporters={"c1": [HTTP]})], [slice_of("c2", endpoint("10.114.0.2"))])) == []


def test_an_unreachable_cluster_gets_no_traffic() -> None:
    slices = [slice_of("c1", endpoint("10.113.0.2")), slice_of("c2", endpoint("10.114.0.2"))]
    peers = [peer("c1"), peer("c2", reachable=False)]

    assert answering(plan_from_c1([service()], slices, peers=peers)) == ["10.113.0.2:8080"]


@pytest.mark.parametrize(("seen", "isolated"), [(False, False), (True, True)])
def test_a_cluster_that_is_cut_off_keeps_its_own_endpoints_alone(seen: bool, isolated: bool) -> None:
    slices = [slice_of("c1", endpoint("10.113.0.2")), slice_of("c2", endpoint("10.114.0.2"))]
    peers = [peer("c1", reachable=seen), peer("c2")]

    assert answering(plan_from_c1([service()], slices, peers=peers, isolated=isolated)) == ["10.113.0.2:8080"]


@pytest.mark.parametrize("address", ["10.115.0.2", "127.0.0.1", "169.254.1.1", "224.0.0.1", "8.8.8.8", "nonsense"])
def test_an_endpoint_outside_its_clusters_blocks_is_dropped_and_counted(address: str) -> None:
    planned = plan_from_c1([service()], [slice_of("c2", endpoint(address), endpoint("10.114.0.2"))])

    assert answering(planned) == ["10.114.0.2:8080"]
    assert planned.dropped == {"c2": 1}


def test_endpoints_of_an_unknown_cluster_are_dropped() -> None:
    planned = plan_from_c1([service()], [slice_of("c2", endpoint("10.114.0.2"))], peers=[peer("c1")])

    assert answering(planned) == []
    assert planned.dropped == {"c2": 1}


def test_slices_of_other_managers_count_for_nothing() -> None:
    slices = [slice_of("c1", endpoint("10.113.0.2"), manager="endpointslice-controller.k8s.io")]

    planned = plan_from_c1([service()], slices)

    assert answering(planned) == []
    assert planned.exported == frozenset()


def test_terminating_endpoints_that_serve_answer_only_when_none_is_ready() -> None:
    leaving = endpoint("10.113.0.2", ready=False, serving=True, terminating=True)
    dead = endpoint("10.113.0.3", ready=False, serving=False, terminating=True)

    assert answering(plan_from_c1([service()], [slice_of("c1", leaving, dead)])) == ["10.113.0.2:8080"]
    with_ready = [slice_of("c1", leaving, dead), slice_of("c2", endpoint("10.114.0.2", ready=True))]
    assert answering(plan_from_c1([service()], with_ready)) == ["10.114.0.2:8080"]


def test_a_headless_service_has_no_virtual_address_yet_its_ports_are_open() -> None:
    planned = plan_from_c1([service(type_="Headless")], [slice_of("c1", endpoint("10.113.0.2"))])

    assert planned.backends == {}
    assert planned.exported == {ExportedPort(ipaddress.ip_address("10.113.0.2"), "tcp", 8080)}


def test_a_service_without_endpoints_is_known_and_empty() -> None:
    assert answering(plan_from_c1([service()], [])) == []


def test_affinity_is_passed_on() -> None:
    planned = plan_from_c1([service(affinity="ClientIP")], [slice_of("c1", endpoint("10.113.0.2"))])

    target = BackendAddress(ipaddress.ip_address("10.113.0.2"), 8080)
    assert list(planned.backends.values()) == [Backend((target,), sticky=True)]


def test_only_own_endpoints_are_open_to_other_clusters_ready_or_not_merged_or_not() -> None:
    slices = [slice_of("c1", endpoint("10.113.0.2", ready=False)), slice_of("c2", endpoint("10.114.0.2"))]

    assert plan_from_c1([], slices).exported == {ExportedPort(ipaddress.ip_address("10.113.0.2"), "tcp", 8080)}


def test_hairpin_concerns_endpoints_of_this_node() -> None:
    slices = [slice_of("c1", endpoint("10.113.0.2"), endpoint("10.113.0.70")), slice_of("c2", endpoint("10.114.0.2"))]

    assert plan_from_c1([service()], slices).hairpin == {ipaddress.ip_address("10.113.0.2")}


def test_of_two_services_that_claim_one_address_the_first_by_name_keeps_it() -> None:
    rival = FleetService(
        spec=FleetServiceSpec(
            namespace="zoo", name="web", vips=[VIP], ports=[HTTP], constituents=service().spec.constituents
        )
    )
    slices = [slice_of("c1", endpoint("10.113.0.2"))]

    for order in ([service(), rival], [rival, service()]):
        assert answering(plan_from_c1(order, slices)) == ["10.113.0.2:8080"]


def test_sctp_is_a_protocol_like_others() -> None:
    sctp = [ServicePort(port=3868, name="diameter", protocol="SCTP")]
    targets = [EndpointPort(name="diameter", protocol="SCTP", port=3868)]
    slices = [slice_of("c2", endpoint("10.114.0.2"), ports=targets)]

    planned = plan_from_c1([service(ports=sctp, exporters={"c2": sctp})], slices)

    assert answering(planned, 3868, "sctp") == ["10.114.0.2:3868"]


def test_an_invalid_port_is_left_out_and_the_others_answer() -> None:
    ports = [EndpointPort(name="http", port=8080), EndpointPort(name="x", port=70000), EndpointPort(name="y", port=-5)]
    planned = plan_from_c1([service()], [slice_of("c1", endpoint("10.113.0.2"), ports=ports)])

    assert answering(planned) == ["10.113.0.2:8080"]
    assert {exported.port for exported in planned.exported} == {8080}


def test_an_address_with_a_zone_is_left_out() -> None:
    peers = [Peer(spec=PeerSpec(cluster="c1"), status=PeerStatus(cluster_cidrs=["fd00:1::/64"]))]
    planned = plan_from_c1([service()], [slice_of("c1", endpoint("fd00:1::5%x }"))], peers=peers)

    assert planned.exported == frozenset()
    assert planned.dropped == {"c1": 1}


@pytest.mark.parametrize("number", [0, -1, 65536, 70000])
def test_a_services_invalid_port_is_left_out_and_its_others_answer(number: int) -> None:
    none = ServicePort(port=number, name="none")
    ports = [EndpointPort(name="http", port=8080), EndpointPort(name="none", port=8081)]
    slices = [slice_of("c1", endpoint("10.113.0.2"), ports=ports)]

    planned = plan_from_c1([service(ports=[none, HTTP], exporters={"c1": [none, HTTP]})], slices)

    assert {frontend.port for frontend in planned.backends} == {80}


def test_a_cluster_with_malformed_blocks_is_named_and_the_others_are_trusted() -> None:
    broken = Peer(
        metadata=ObjectMeta(name="c2"),
        spec=PeerSpec(cluster="c2"),
        status=PeerStatus(cluster_cidrs=["10.114.0.0/22", "10.114.0.1/22"]),
    )

    here = plan.view_clusterset([peer("c1"), broken], cluster="c1")

    assert here.malformed == {"c2"}
    assert set(here.blocks) == {"c1"}


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "224.0.0.9", "0.0.0.0", "::1", "fe80::1", "ff02::1", "::"]
)
def test_an_endpoint_that_no_service_may_point_clients_at_is_dropped_whatever_the_blocks(address: str) -> None:
    """A hub that was misled may allocate a cluster any block."""
    everything = "::/0" if ":" in address else "0.0.0.0/0"
    peers = [
        Peer(metadata=ObjectMeta(name="c2"), spec=PeerSpec(cluster="c2"), status=PeerStatus(cluster_cidrs=[everything]))
    ]

    planned = plan_from_c1([service()], [slice_of("c2", endpoint(address))], peers=peers)

    assert planned.dropped == {"c2": 1}
    assert not any(backend.targets for backend in planned.backends.values())


@pytest.mark.parametrize(
    "vip", ["127.0.0.1", "169.254.169.254", "224.0.0.9", "0.0.0.0", "::1", "fe80::1", "ff02::1", "::"]
)
def test_a_virtual_address_that_no_service_may_have_is_left_out(vip: str) -> None:
    spec = msgspec.structs.replace(service().spec, vips=[vip, VIP])

    planned = plan_from_c1([FleetService(spec=spec)], [slice_of("c1", endpoint("10.113.0.2"))])

    assert {str(frontend.address) for frontend in planned.backends} == {VIP}
