"""What a client may send besides a plain question, and what it gets."""

from __future__ import annotations

import random

import dnslib
import pytest
from dns_objects import Resolver, contents, make_endpoint, make_service, make_slice, rcode
from dns_packets import WEB, largest_asked, mutate, query, with_circles, with_opt, with_questions

from crossdns.server import answerer


@pytest.fixture
def resolver() -> Resolver:
    made = Resolver()
    made.put(make_service())
    return made


def make_large(endpoints: int) -> Resolver:
    made = Resolver()
    found = [make_endpoint(f"10.112.{4 + n // 250}.{n % 250 + 1}") for n in range(endpoints)]
    made.put(make_service(type_="Headless"), make_slice("c1", found))
    return made


def reply_to(resolver: Resolver, data: bytes, *, udp: bool = True) -> dnslib.DNSRecord:
    reply = resolver.send(data, udp=udp)
    assert reply is not None
    return dnslib.DNSRecord.parse(reply)


def test_servfail_until_a_zone_was_received() -> None:
    assert rcode(Resolver().ask(WEB)) == "SERVFAIL"
    assert rcode(Resolver().ask("example.com")) == "REFUSED"


@pytest.mark.parametrize("name", ["example.com", "local", ".", "xhyperos.local", "hyperos.local.example.com"])
def test_other_zones_are_refused(resolver: Resolver, name: str) -> None:
    answer = resolver.ask(name)
    assert rcode(answer) == "REFUSED"
    assert answer.header.aa == 0


def test_other_classes_are_refused(resolver: Resolver) -> None:
    assert rcode(reply_to(resolver, query()[:-2] + b"\0\3")) == "REFUSED"


def test_any_is_answered_with_one_small_record(resolver: Resolver) -> None:
    answer = resolver.ask(WEB, "ANY")
    assert [record.rtype for record in answer.rr] == [13]
    assert rcode(resolver.ask(f"no.{WEB}", "ANY")) == "NXDOMAIN"


@pytest.mark.parametrize("type_", ["AXFR", "IXFR"])
def test_zone_transfers_are_refused(resolver: Resolver, type_: str) -> None:
    assert rcode(resolver.ask("hyperos.local", type_, udp=False)) == "REFUSED"


def test_other_operations_are_not_implemented(resolver: Resolver) -> None:
    data = bytearray(query())
    for opcode in (1, 2, 4, 5):
        data[2] = opcode << 3
        assert rcode(reply_to(resolver, bytes(data))) == "NOTIMP"


def test_responses_and_fragments_get_no_answer(resolver: Resolver) -> None:
    data = bytearray(query())
    data[2] |= 0x80
    assert resolver.send(bytes(data)) is None
    for length in range(12):
        assert resolver.send(query()[:length]) is None


def test_malformed_questions_are_format_errors(resolver: Resolver) -> None:
    cut = query()[:-3]
    two = query()[:4] + b"\0\2" + query()[6:]
    many = with_questions(query(), 60)
    none = query()[:4] + b"\0\0" + query()[6:]
    compressed = query()[:12] + b"\xc0\x0c\0\1\0\1"
    long_label = query()[:12] + b"\x40" + b"a" * 64 + b"\0\0\1\0\1"
    trailing = query() + b"x" * 5
    for data in (cut, two, many, none, compressed, long_label):
        assert rcode(reply_to(resolver, data)) == "FORMERR", data
    assert contents(reply_to(resolver, trailing)) == ["10.112.0.9"]


def test_a_zero_byte_inside_a_label_does_not_end_the_name(resolver: Resolver) -> None:
    name = b"\x05a\0b\0c" + query()[12:-4]
    answer = resolver.send(query()[:12] + name + b"\0\1\0\1")
    assert answer is not None
    assert answer[3] & 0x0F == answerer.NXDOMAIN


@pytest.mark.parametrize("depth", [50, 1300, 20_000])
def test_names_that_point_in_circles_are_a_format_error(resolver: Resolver, depth: int) -> None:
    answer = resolver.send(with_circles(query(), depth))
    assert answer is None or answer[3] & 0x0F == answerer.FORMERR


def test_edns_is_answered_with_edns_and_unknown_options_are_passed_over(resolver: Resolver) -> None:
    cookie = b"\0\x0a\0\x08" + b"c" * 8
    answer = reply_to(resolver, with_opt(query(), flags=0x8000, options=cookie))
    assert contents(answer) == ["10.112.0.9"]
    (opt,) = answer.ar
    assert opt.rclass == 1232
    assert opt.ttl == 0x8000
    assert reply_to(resolver, query()).ar == []


def test_an_edns_version_from_the_future_is_badvers(resolver: Resolver) -> None:
    answer = reply_to(resolver, with_opt(query(), version=1))
    assert answer.header.rcode == 0
    assert answer.ar[0].ttl >> 24 == 1
    assert answer.rr == []


@pytest.mark.parametrize(("size", "limit"), [(0, 512), (100, 512), (800, 800), (65535, 1232)])
def test_a_datagram_is_never_larger_than_the_client_takes(size: int, limit: int) -> None:
    resolver = make_large(200)
    for type_ in ("A", "SRV"):
        data = query(type_=type_)
        reply = resolver.send(with_opt(data, size=size) if size else data)
        assert reply is not None
        assert limit - 100 < len(reply) <= limit
        answer = dnslib.DNSRecord.parse(reply)
        assert answer.header.tc == 1
        assert len(answer.rr) == answer.header.a > 0


def test_tcp_carries_what_datagrams_do_not() -> None:
    answer = make_large(200).ask(WEB, udp=False)
    assert answer.header.tc == 0
    assert len(answer.rr) == 200


def test_no_answer_outgrows_a_message() -> None:
    resolver = make_large(5000)
    for type_ in ("A", "SRV"):
        reply = resolver.send(query(type_=type_), udp=False)
        assert reply is not None
        assert 60000 < len(reply) <= 65535
        dnslib.DNSRecord.parse(reply)


def test_several_addresses_are_given_in_turn() -> None:
    resolver = make_large(4)
    first = [str(resolver.ask(WEB).rr[0].rdata) for _ in range(8)]
    assert len(set(first)) == 4
    assert all(first.count(address) == 2 for address in first)


def test_both_families_take_turns_and_stay_whole() -> None:
    made = Resolver()
    four = [make_endpoint(f"10.112.4.{n}", hostname=f"h{n}") for n in range(1, 4)]
    six = [make_endpoint(f"fd00::{n}", hostname=f"h{n}") for n in range(1, 4)]
    made.put(make_service(type_="Headless"), make_slice("c1", four), make_slice("c1", six))
    first = set()
    for _ in range(3):
        answers = made.ask(WEB), made.ask(WEB, "AAAA")
        assert contents(answers[0]) == [f"10.112.4.{n}" for n in range(1, 4)]
        assert contents(answers[1]) == [f"fd00::{n}" for n in range(1, 4)]
        first |= {str(answer.rr[0].rdata) for answer in answers}
    assert len(first) == 6


def test_twenty_thousand_hostile_packets_do_no_harm() -> None:
    resolver = make_large(100)
    chance = random.Random(20260)
    seeds = [
        query(),
        query(type_="SRV"),
        query("no." + WEB),
        with_opt(query("hyperos.local", "SOA"), options=b"\0\3\0\0"),
    ]
    answered = 0
    for _ in range(20_000):
        data = mutate(chance.choice(seeds), chance)
        udp = chance.random() < 0.5
        reply = resolver.send(data, udp=udp)
        if reply is None:
            continue
        answered += 1
        parsed = dnslib.DNSRecord.parse(reply)
        assert parsed.header.id == int.from_bytes(data[:2], "big")
        assert parsed.header.qr == 1
        assert len(reply) <= (min(largest_asked(data), answerer.UDP_MAX) if udp else answerer.TCP_MAX)
    assert answered > 5000
