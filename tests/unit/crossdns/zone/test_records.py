"""Requirements 30 to 41 of the Multi-Cluster Services DNS specification; the numbers are reference/mcs.md's."""

from __future__ import annotations

import ipaddress

import pytest
from dns_objects import KEY, Resolver, contents, make_endpoint, make_service, make_slice, rcode

from crossdns.zone import zone
from fleetboard.model import core, meta, names
from fleetboard.model.keys import ServiceKey
from fleetboard.model.reach import Reach

BOTH_ZONES = pytest.mark.parametrize("apex", names.ZONES)


def make_headless(*slices: core.EndpointSlice, reach: Reach | None = None) -> Resolver:
    resolver = Resolver()
    resolver.put(make_service(type_="Headless", ports=()), *slices, reach=reach)
    return resolver


@BOTH_ZONES
def test_mcs30_both_zones_answer_with_authority(apex: str) -> None:
    resolver = Resolver()
    resolver.load()
    assert contents(resolver.ask(apex, "NS")) == ["crossdns.fleetboard-system.svc.cluster.local."]
    soa = resolver.ask(apex, "SOA")
    assert soa.header.aa == 1
    assert str(soa.rr[0].rname) == f"{apex}."
    assert soa.rr[0].rdata.times[4] == zone.TTL_S


@BOTH_ZONES
def test_mcs31_dns_version_is_published(apex: str) -> None:
    resolver = Resolver()
    resolver.load()
    answer = resolver.ask(f"dns-version.{apex}", "TXT")
    assert contents(answer) == ['"1.0.0"']
    assert answer.rr[0].ttl == 28800


@BOTH_ZONES
def test_mcs32_a_clusterset_ip_service_resolves_to_its_virtual_addresses(apex: str) -> None:
    resolver = Resolver()
    resolver.put(make_service(vips=["10.112.0.9", "fd00::9"]))
    assert contents(resolver.ask(f"web.shop.svc.{apex}")) == ["10.112.0.9"]
    assert contents(resolver.ask(f"web.shop.svc.{apex}", "AAAA")) == ["fd00::9"]


def test_mcs32_a_service_without_endpoints_still_resolves() -> None:
    resolver = Resolver()
    resolver.put(make_service(), make_slice("c1", []))
    assert contents(resolver.ask("web.shop.svc.hyperos.local")) == ["10.112.0.9"]


@pytest.mark.parametrize(
    "vip", ["127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0", "fe80::1", "junk", "::ffff:1.2.3.4", "240.0.0.1"]
)
def test_mcs32_an_address_that_no_service_has_is_not_answered(vip: str) -> None:
    resolver = Resolver()
    resolver.put(make_service(vips=[vip, "10.112.0.9"]))
    assert contents(resolver.ask("web.shop.svc.hyperos.local")) == ["10.112.0.9"]
    assert contents(resolver.ask("web.shop.svc.hyperos.local", "AAAA")) == []


@BOTH_ZONES
def test_mcs33_a_named_port_has_a_srv_record(apex: str) -> None:
    resolver = Resolver()
    resolver.put(make_service(ports=[("http", "TCP", 80), ("dns", "UDP", 53)]))
    assert contents(resolver.ask(f"_http._tcp.web.shop.svc.{apex}", "SRV")) == [f"0 100 80 web.shop.svc.{apex}."]
    assert contents(resolver.ask(f"_dns._udp.web.shop.svc.{apex}", "SRV")) == [f"0 100 53 web.shop.svc.{apex}."]
    assert rcode(resolver.ask(f"_http._udp.web.shop.svc.{apex}", "SRV")) == "NXDOMAIN"


def test_mcs33_an_unnamed_port_and_one_too_long_have_none() -> None:
    resolver = Resolver()
    resolver.put(make_service(ports=[("", "TCP", 80), ("p" * 63, "TCP", 81)]))
    assert rcode(resolver.ask("_tcp.web.shop.svc.hyperos.local", "SRV")) == "NXDOMAIN"
    assert len(contents(resolver.ask("web.shop.svc.hyperos.local", "SRV"))) == 2


@pytest.mark.parametrize("type_", ["ClusterSetIP", "Headless"])
def test_mcs34_and_trap_3l_a_cluster_name_never_holds_records(type_: str) -> None:
    resolver = Resolver()
    resolver.put(make_service(type_=type_), make_slice("c1", [make_endpoint("10.112.4.2", hostname="a")]))
    for record_type in ("A", "AAAA", "SRV", "TXT"):
        assert contents(resolver.ask("c1.web.shop.svc.hyperos.local", record_type)) == []


@BOTH_ZONES
def test_mcs35_a_headless_service_resolves_to_the_ready_endpoints_of_all_clusters(apex: str) -> None:
    resolver = make_headless(
        make_slice("c1", [make_endpoint("10.112.4.2", hostname="a"), make_endpoint("10.112.4.3", hostname="b")]),
        make_slice("c2", [make_endpoint("10.112.8.2", hostname="a")]),
    )
    assert contents(resolver.ask(f"web.shop.svc.{apex}")) == ["10.112.4.2", "10.112.4.3", "10.112.8.2"]
    assert contents(resolver.ask(f"a.c1.web.shop.svc.{apex}")) == ["10.112.4.2"]
    assert contents(resolver.ask(f"a.c2.web.shop.svc.{apex}")) == ["10.112.8.2"]
    assert rcode(resolver.ask(f"b.c2.web.shop.svc.{apex}")) == "NXDOMAIN"


def test_mcs35_an_endpoint_of_several_addresses_has_several_records() -> None:
    resolver = make_headless(make_slice("c1", [make_endpoint("10.112.4.2", "10.112.4.3", hostname="a")]))
    assert contents(resolver.ask("a.c1.web.shop.svc.hyperos.local")) == ["10.112.4.2", "10.112.4.3"]


def test_mcs35_srv_names_every_endpoint_and_port() -> None:
    endpoints = [make_endpoint("10.112.4.2", hostname="a"), make_endpoint("10.112.4.3", hostname="b")]
    resolver = make_headless(make_slice("c1", endpoints, ports=[("http", "TCP", 8080), ("alt", "TCP", 8081)]))
    assert contents(resolver.ask("_http._tcp.web.shop.svc.hyperos.local", "SRV")) == [
        "0 100 8080 a.c1.web.shop.svc.hyperos.local.",
        "0 100 8080 b.c1.web.shop.svc.hyperos.local.",
    ]
    assert len(contents(resolver.ask("web.shop.svc.hyperos.local", "SRV"))) == 4


def test_mcs35_a_and_aaaa_are_of_the_same_endpoints_also_where_not_all_fit() -> None:
    four = [make_endpoint(f"10.112.{n // 250}.{n % 250 + 1}", hostname=f"h{n}") for n in range(3000)]
    six = [make_endpoint(f"fd00::{n:x}", hostname=f"h{n}") for n in range(3000)]
    resolver = make_headless(make_slice("c1", four), make_slice("c1", six))
    hosts = {ipaddress.ip_address(endpoint.addresses[0]): endpoint.hostname for endpoint in four + six}
    found = []
    for type_ in ("A", "AAAA"):
        texts = contents(resolver.ask("web.shop.svc.hyperos.local", type_, udp=False))
        found.append({hosts[ipaddress.ip_address(text)] for text in texts})
    assert found[0] == found[1]
    assert len(found[0]) == zone.ADDRESSES_MAX[6]
    assert contents(resolver.ask("h2999.c1.web.shop.svc.hyperos.local")) == ["10.112.11.250"]


def test_mcs36_without_a_host_name_the_address_makes_one() -> None:
    slice_ = make_slice("c1", [core.Endpoint(addresses=["10.112.4.2"], target_ref=core.TargetRef(name="pod-x"))])
    resolver = make_headless(slice_, make_slice("c2", [make_endpoint("fd00::2", hostname="Not A Label")]))
    assert contents(resolver.ask("10-112-4-2.c1.web.shop.svc.hyperos.local")) == ["10.112.4.2"]
    host = "fd00-0000-0000-0000-0000-0000-0000-0002"
    assert contents(resolver.ask(f"{host}.c2.web.shop.svc.hyperos.local", "AAAA")) == ["fd00::2"]
    assert rcode(resolver.ask("pod-x.c1.web.shop.svc.hyperos.local")) == "NXDOMAIN"


@pytest.mark.parametrize(("ready", "there"), [(True, True), (None, True), (False, False)])
def test_mcs37_only_ready_endpoints_are_answered(ready: bool | None, there: bool) -> None:
    resolver = make_headless(make_slice("c1", [make_endpoint("10.112.4.2", hostname="a", ready=ready)]))
    expected = "NOERROR" if there else "NXDOMAIN"
    assert rcode(resolver.ask("web.shop.svc.hyperos.local")) == expected
    assert rcode(resolver.ask("a.c1.web.shop.svc.hyperos.local")) == expected


def test_mcs37_the_other_family_is_nodata_with_the_zones_soa() -> None:
    resolver = make_headless(make_slice("c1", [make_endpoint("10.112.4.2", hostname="a")]))
    answer = resolver.ask("web.shop.svc.hyperos.local", "AAAA")
    assert rcode(answer) == "NOERROR"
    assert answer.rr == []
    assert str(answer.auth[0].rname) == "hyperos.local."
    assert answer.auth[0].ttl == zone.TTL_S


def test_mcs37_a_name_that_is_not_there_is_nxdomain_with_the_zones_soa() -> None:
    resolver = make_headless()
    answer = resolver.ask("web.shop.svc.clusterset.local")
    assert rcode(answer) == "NXDOMAIN"
    assert str(answer.auth[0].rname) == "clusterset.local."


def test_trap_3k_names_above_records_exist_without_any() -> None:
    resolver = make_headless(make_slice("c1", [make_endpoint("10.112.4.2", hostname="a")]))
    above = ["svc", "shop.svc", "c1.web.shop.svc", "_tcp.web.shop.svc"]
    for name in above:
        assert rcode(resolver.ask(f"{name}.hyperos.local")) == "NOERROR", name
    resolver.table.put(KEY, {})
    resolver.load()
    for name in above:
        assert rcode(resolver.ask(f"{name}.hyperos.local")) == "NXDOMAIN", name


def test_mcs38_matching_ignores_case_and_the_answer_keeps_the_clients_spelling() -> None:
    resolver = Resolver()
    resolver.put(make_service())
    answer = resolver.ask("wEb.ShOp.SvC.HyPeRoS.lOcAl")
    assert contents(answer) == ["10.112.0.9"]
    assert str(answer.q.qname) == "wEb.ShOp.SvC.HyPeRoS.lOcAl."
    assert str(answer.rr[0].rname) == "wEb.ShOp.SvC.HyPeRoS.lOcAl."


def test_mcs40_the_longest_names_the_rules_allow_fit_both_zones() -> None:
    key = ServiceKey("n" * 63, "s" * 63)
    resolver = Resolver()
    slices = [make_slice("c" * 40, [make_endpoint("10.112.4.2", hostname="h" * 63)], key=key)]
    resolver.put(make_service(key, type_="Headless"), *slices)
    for apex in names.ZONES:
        host = f"{'h' * 63}.{'c' * 40}.{'s' * 63}.{'n' * 63}.svc.{apex}"
        assert len(host) <= 253
        assert contents(resolver.ask(host)) == ["10.112.4.2"]


@pytest.mark.parametrize("length", range(38, 64))
def test_mcs40_names_that_are_too_long_are_in_neither_zone_or_in_the_shorter_one(length: int) -> None:
    key = ServiceKey("n" * 63, "s" * 63)
    cluster, host = "c" * length, "h" * 63
    resolver = Resolver()
    resolver.put(
        make_service(key, type_="Headless"), make_slice(cluster, [make_endpoint("10.112.4.2", hostname=host)], key=key)
    )
    for apex in names.ZONES:
        full = f"{host}.{cluster}.{zone.service_domain(key)}.{apex}"
        srv = contents(resolver.ask(f"{zone.service_domain(key)}.{apex}", "SRV", udp=False))
        assert srv == ([f"0 100 8080 {full}."] if len(full) <= 253 else [])
        assert contents(resolver.ask(f"{zone.service_domain(key)}.{apex}")) == ["10.112.4.2"]


def test_mcs40_what_is_no_label_has_no_name() -> None:
    bad = core.EndpointSlice(
        metadata=meta.ObjectMeta(labels={names.LABEL_SOURCE_CLUSTER: "two.labels"}),
        endpoints=[make_endpoint("10.112.4.2")],
    )
    assert rcode(make_headless(bad).ask("web.shop.svc.hyperos.local")) == "NXDOMAIN"
    assert zone.service_records(ServiceKey("shop", "we b"), make_service(), [], Reach()) == {}


def test_mcs41_and_trap_3m_srv_on_the_bare_name_answers_each_port_number_once() -> None:
    resolver = Resolver()
    resolver.put(make_service(ports=[("tcp", "TCP", 42), ("udp", "UDP", 42)]))
    assert contents(resolver.ask("web.shop.svc.clusterset.local", "SRV")) == ["0 100 42 web.shop.svc.clusterset.local."]


def test_mcs41_srv_on_the_bare_headless_name_answers_each_endpoint_once() -> None:
    endpoints = [make_endpoint("10.112.4.2", hostname="a"), make_endpoint("10.112.4.3", hostname="b")]
    resolver = make_headless(make_slice("c1", endpoints, ports=[("tcp", "TCP", 42), ("udp", "UDP", 42)]))
    assert contents(resolver.ask("web.shop.svc.clusterset.local", "SRV")) == [
        "0 100 42 a.c1.web.shop.svc.clusterset.local.",
        "0 100 42 b.c1.web.shop.svc.clusterset.local.",
    ]


def test_mcs39_there_is_no_ptr_record() -> None:
    resolver = Resolver()
    resolver.put(make_service())
    assert contents(resolver.ask("web.shop.svc.hyperos.local", "PTR")) == []
    assert rcode(resolver.ask("9.0.112.10.in-addr.arpa", "PTR")) == "REFUSED"


def test_trap_3j_a_service_without_ports_has_its_name() -> None:
    resolver = Resolver()
    resolver.put(make_service(ports=()))
    assert contents(resolver.ask("web.shop.svc.hyperos.local")) == ["10.112.0.9"]


def test_trap_3j_a_slice_of_no_cluster_is_not_read() -> None:
    unlabelled = make_slice("c1", [make_endpoint("10.112.4.2", hostname="a")])
    del unlabelled.metadata.labels[names.LABEL_SOURCE_CLUSTER]
    resolver = make_headless(unlabelled)
    for name in ("web", "a.web"):
        assert rcode(resolver.ask(f"{name}.shop.svc.hyperos.local")) == "NXDOMAIN"


def both_clusters(reach: Reach) -> list[str]:
    resolver = make_headless(
        make_slice("c1", [make_endpoint("10.112.4.2")]), make_slice("c2", [make_endpoint("10.112.8.2")]), reach=reach
    )
    return contents(resolver.ask("web.shop.svc.hyperos.local"))


def test_an_unreachable_clusters_endpoints_are_withdrawn() -> None:
    assert both_clusters(Reach(frozenset({"c1"}), frozenset({"c2"}))) == ["10.112.4.2"]


def test_our_own_endpoints_are_never_withdrawn_and_come_alone_when_we_are_cut_off() -> None:
    assert both_clusters(Reach(frozenset({"c1"}), frozenset({"c1"}))) == ["10.112.4.2"]
    assert both_clusters(Reach(frozenset({"c3"}), frozenset({"c3"}))) == ["10.112.4.2", "10.112.8.2"]
