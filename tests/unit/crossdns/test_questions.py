"""Questions and answers: what crossdns says, as a table that anyone who knows DNS can read.

The clusterset has two members, c1 and c2, and these services, all in namespace ``shop``:

========  ============  ====================================================================================
``web``   ClusterSetIP  virtual addresses 10.112.0.9 and fd00::9; ports http (TCP 80), dns (UDP 53)
``bare``  ClusterSetIP  merged a moment ago: it has no virtual address and no port yet
``db``    Headless      port pg (TCP 5432); in c1 the pods db-0 and db-1 with host names, in c2 one pod without
``late``  Headless      no endpoint that is ready
========  ============  ====================================================================================
"""

from __future__ import annotations

import dnslib
import pytest
from dns_objects import Resolver, make_endpoint, make_service, make_slice, rcode

from fleetboard.model.keys import ServiceKey

WEB, BARE, DB, LATE = (ServiceKey("shop", name) for name in ("web", "bare", "db", "late"))

HOST_C2 = "10-114-0-2.c2.db.shop.svc.hyperos.local."
SRV_DB = (
    "0 100 5432 10-114-0-2.c2.db.shop.svc.hyperos.local.",
    "0 100 5432 db-0.c1.db.shop.svc.hyperos.local.",
    "0 100 5432 db-1.c1.db.shop.svc.hyperos.local.",
)

# "RFC8482" "", as dnslib shows a type that it doesn't know (RFC 3597).
HINFO = r"\# 9 075246433834383200"
NODATA: tuple[str, ...] = ()

# (name, type) -> (rcode, answers). NODATA is NOERROR without answers: the name exists, and holds nothing of that type.
QUESTIONS: list[tuple[str, str, str, tuple[str, ...]]] = [
    # A service with virtual addresses: the name holds those, SRV the service's ports.
    ("web.shop.svc.hyperos.local.", "A", "NOERROR", ("10.112.0.9",)),
    ("web.shop.svc.hyperos.local.", "AAAA", "NOERROR", ("fd00::9",)),
    (
        "web.shop.svc.hyperos.local.",
        "SRV",
        "NOERROR",
        ("0 100 53 web.shop.svc.hyperos.local.", "0 100 80 web.shop.svc.hyperos.local."),
    ),
    ("_http._tcp.web.shop.svc.hyperos.local.", "SRV", "NOERROR", ("0 100 80 web.shop.svc.hyperos.local.",)),
    ("_dns._udp.web.shop.svc.hyperos.local.", "SRV", "NOERROR", ("0 100 53 web.shop.svc.hyperos.local.",)),
    ("_http._udp.web.shop.svc.hyperos.local.", "SRV", "NXDOMAIN", ()),
    ("_https._tcp.web.shop.svc.hyperos.local.", "SRV", "NXDOMAIN", ()),
    ("_http._tcp.web.shop.svc.hyperos.local.", "A", "NOERROR", NODATA),
    # It has no names of single pods or clusters.
    ("c1.web.shop.svc.hyperos.local.", "A", "NXDOMAIN", ()),
    # Both zones hold the same; SRV targets are in the zone that was asked.
    ("web.shop.svc.clusterset.local.", "A", "NOERROR", ("10.112.0.9",)),
    ("_http._tcp.web.shop.svc.clusterset.local.", "SRV", "NOERROR", ("0 100 80 web.shop.svc.clusterset.local.",)),
    # Case is the client's own.
    ("WEB.Shop.SVC.HyperOS.local.", "A", "NOERROR", ("10.112.0.9",)),
    ("_HTTP._TCP.web.shop.svc.hyperos.local.", "SRV", "NOERROR", ("0 100 80 web.shop.svc.hyperos.local.",)),
    ("NO-SUCH.shop.svc.hyperos.local.", "A", "NXDOMAIN", ()),
    # A service that has nothing yet exists.
    ("bare.shop.svc.hyperos.local.", "A", "NOERROR", NODATA),
    ("bare.shop.svc.hyperos.local.", "SRV", "NOERROR", NODATA),
    # A headless service: the addresses of all ready endpoints, and a name for each.
    ("db.shop.svc.hyperos.local.", "A", "NOERROR", ("10.113.0.2", "10.113.0.3", "10.114.0.2")),
    ("db.shop.svc.hyperos.local.", "AAAA", "NOERROR", ("fd00:1::3",)),
    ("db.shop.svc.hyperos.local.", "SRV", "NOERROR", SRV_DB),
    ("_pg._tcp.db.shop.svc.hyperos.local.", "SRV", "NOERROR", SRV_DB),
    ("db-0.c1.db.shop.svc.hyperos.local.", "A", "NOERROR", ("10.113.0.2",)),
    ("db-0.c1.db.shop.svc.hyperos.local.", "AAAA", "NOERROR", NODATA),
    ("db-1.c1.db.shop.svc.hyperos.local.", "AAAA", "NOERROR", ("fd00:1::3",)),
    (HOST_C2, "A", "NOERROR", ("10.114.0.2",)),
    (HOST_C2, "SRV", "NOERROR", NODATA),
    ("db-0.c2.db.shop.svc.hyperos.local.", "A", "NXDOMAIN", ()),
    ("db-2.c1.db.shop.svc.hyperos.local.", "A", "NXDOMAIN", ()),
    # Without a ready endpoint it has no name.
    ("late.shop.svc.hyperos.local.", "A", "NXDOMAIN", ()),
    # What is above a name exists too (RFC 8020).
    ("_tcp.web.shop.svc.hyperos.local.", "A", "NOERROR", NODATA),
    ("c1.db.shop.svc.hyperos.local.", "A", "NOERROR", NODATA),
    ("shop.svc.hyperos.local.", "A", "NOERROR", NODATA),
    ("svc.hyperos.local.", "A", "NOERROR", NODATA),
    ("other.svc.hyperos.local.", "A", "NXDOMAIN", ()),
    ("web.shop.hyperos.local.", "A", "NXDOMAIN", ()),
    # The zone itself.
    ("hyperos.local.", "A", "NOERROR", NODATA),
    ("hyperos.local.", "NS", "NOERROR", ("crossdns.fleetboard-system.svc.cluster.local.",)),
    (
        "hyperos.local.",
        "SOA",
        "NOERROR",
        ("crossdns.fleetboard-system.svc.cluster.local. hostmaster.hyperos.local. 1 7200 1800 86400 5",),
    ),
    ("dns-version.hyperos.local.", "TXT", "NOERROR", ('"1.0.0"',)),
    ("dns-version.hyperos.local.", "A", "NOERROR", NODATA),
    # Types that no name has; ANY gets what RFC 8482 makes up.
    ("web.shop.svc.hyperos.local.", "TXT", "NOERROR", NODATA),
    ("web.shop.svc.hyperos.local.", "CNAME", "NOERROR", NODATA),
    ("web.shop.svc.hyperos.local.", "MX", "NOERROR", NODATA),
    ("web.shop.svc.hyperos.local.", "PTR", "NOERROR", NODATA),
    ("web.shop.svc.hyperos.local.", "SOA", "NOERROR", NODATA),
    ("web.shop.svc.hyperos.local.", "ANY", "NOERROR", (HINFO,)),
    ("no-such.shop.svc.hyperos.local.", "ANY", "NXDOMAIN", ()),
    # Zones of others, reverse lookups among them.
    ("web.shop.svc.cluster.local.", "A", "REFUSED", ()),
    ("hyperos.local.example.", "A", "REFUSED", ()),
    ("nothyperos.local.", "A", "REFUSED", ()),
    ("example.com.", "ANY", "REFUSED", ()),
    (".", "NS", "REFUSED", ()),
    ("9.0.112.10.in-addr.arpa.", "PTR", "REFUSED", ()),
    # Transfers.
    ("hyperos.local.", "AXFR", "REFUSED", ()),
    ("hyperos.local.", "IXFR", "REFUSED", ()),
]


@pytest.fixture(scope="module")
def resolver() -> Resolver:
    made = Resolver()
    made.put(make_service(WEB, vips=("10.112.0.9", "fd00::9"), ports=(("http", "TCP", 80), ("dns", "UDP", 53))))
    made.put(make_service(BARE, vips=(), ports=()))
    pg = (("pg", "TCP", 5432),)
    pods_of_c1 = [
        make_endpoint("10.113.0.2", hostname="db-0"),
        make_endpoint("10.113.0.3", "fd00:1::3", hostname="db-1"),
        make_endpoint("10.113.0.4", hostname="db-2", ready=False),
    ]
    made.put(
        make_service(DB, type_="Headless", ports=pg),
        make_slice("c1", pods_of_c1, key=DB, ports=pg),
        make_slice("c2", [make_endpoint("10.114.0.2")], key=DB, ports=pg),
    )
    starting = make_slice("c1", [make_endpoint("10.113.0.5", ready=False)], key=LATE, ports=pg)
    made.put(make_service(LATE, type_="Headless", ports=pg), starting)
    made.generation = 0  # the SOA's serial in the table
    made.load()
    return made


def rendered(records: list[dnslib.RR]) -> tuple[str, ...]:
    return tuple(sorted(str(record.rdata) for record in records))


@pytest.mark.parametrize(
    ("name", "type_", "code", "answers"), QUESTIONS, ids=[f"{name} {type_}" for name, type_, *_ in QUESTIONS]
)
def test_a_question_gets_its_answer(
    resolver: Resolver, name: str, type_: str, code: str, answers: tuple[str, ...]
) -> None:
    answer = resolver.ask(name, type_)

    assert (rcode(answer), rendered(answer.rr)) == (code, answers)
    # Records come under the client's spelling of the name.
    assert {str(record.rname) for record in answer.rr} <= {name}


@pytest.mark.parametrize(
    ("name", "type_", "code", "answers"), QUESTIONS, ids=[f"{name} {type_}" for name, type_, *_ in QUESTIONS]
)
def test_what_does_not_exist_may_be_kept_as_long_as_the_soa_says(
    resolver: Resolver, name: str, type_: str, code: str, answers: tuple[str, ...]
) -> None:
    answer = resolver.ask(name, type_)

    assert answer.header.aa == (code != "REFUSED")
    zone = "clusterset.local." if name.lower().endswith("clusterset.local.") else "hyperos.local."
    negative = code != "REFUSED" and not answers
    # RFC 2308: the SOA of the zone, whose TTL and minimum tell a resolver how long to keep it.
    assert [(str(record.rname).lower(), record.rtype, record.ttl) for record in answer.auth] == (
        [(zone, dnslib.QTYPE.SOA, 5)] if negative else []
    )
