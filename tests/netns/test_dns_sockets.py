"""crossdns' answering processes on real sockets, in a network namespace of their own."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import dns_processes
import dnslib
import pytest

from crossdns import errors
from crossdns.server import counters, workers
from crossdns.zone import table, zone
from fleetboard.model import fleet
from fleetboard.model.keys import ServiceKey
from fleetboard.model.reach import Reach

pytestmark = pytest.mark.netns

WEB = "web.shop.svc.hyperos.local"
LARGE = "large.shop.svc.hyperos.local"


@pytest.fixture(scope="module", autouse=True)
def netns() -> Iterator[None]:
    """Move this thread, and what it starts, into a namespace with nothing but loopback."""
    with dns_processes.inside("dns-sockets"):
        yield


@pytest.fixture
def pool(netns: None) -> Iterator[workers.WorkerPool]:
    with dns_processes.running(dns_processes.make_table(), udp_processes=2) as made:
        yield made


def ask(name: str, type_: str = "A", *, server: str = "127.0.0.1", tcp: bool = False) -> dnslib.DNSRecord:
    query = dnslib.DNSRecord.question(name, type_)
    reply = query.send(server, dns_processes.PORT, tcp=tcp, timeout=30, ipv6=":" in server)
    return dnslib.DNSRecord.parse(reply)


def contents(answer: dnslib.DNSRecord) -> list[str]:
    return [str(record.rdata) for record in answer.rr]


def total(pool: workers.WorkerPool, protocol: str, field: int) -> int:
    return sum(pool.counts(slot)[field] for slot in pool.slots if slot.protocol == protocol)


@pytest.mark.parametrize("server", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("tcp", [False, True])
def test_both_protocols_answer_on_both_families(pool: workers.WorkerPool, server: str, tcp: bool) -> None:
    assert contents(ask(WEB, server=server, tcp=tcp)) == ["10.112.0.9"]
    assert ask("no." + WEB, server=server, tcp=tcp).header.rcode == 3


def test_what_a_datagram_cuts_off_tcp_gives_whole(
    pool: workers.WorkerPool, eventually: Callable[[Callable[[], object]], None]
) -> None:
    cut = ask(LARGE)
    assert cut.header.tc == 1
    assert 0 < len(cut.rr) < 600
    assert len(ask(LARGE, tcp=True).rr) == 600
    eventually(lambda: total(pool, "udp", counters.TRUNCATED) == 1)


def test_servfail_before_the_first_zone(netns: None) -> None:
    made = workers.WorkerPool(port=dns_processes.PORT, udp_processes=1)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = ask(WEB, tcp=True)
                break
            except OSError:
                assert time.monotonic() < deadline
        assert answer.header.rcode == 2
        assert made.served() == 0
    finally:
        made.close()


def test_an_update_loses_no_query(pool: workers.WorkerPool) -> None:
    made, stop = dns_processes.make_table(), threading.Event()
    failures: list[str] = []

    def client() -> None:
        while not stop.is_set():
            if contents(ask(WEB)) != ["10.112.0.9"]:
                failures.append("wrong answer")

    asking = threading.Thread(target=client)
    asking.start()
    try:
        publish_fifty(pool, made)
    finally:
        stop.set()
        asking.join()
    assert failures == []


def publish_fifty(pool: workers.WorkerPool, made: table.Table) -> None:
    """Publish fifty changes, and the whole zone now and then, until the last one is served."""
    for n in range(50):
        key = ServiceKey("shop", f"new-{n}")
        spec = fleet.FleetServiceSpec(namespace="shop", name=key.name, vips=["10.112.0.7"])
        change = made.put(key, zone.service_records(key, fleet.FleetService(spec=spec), [], Reach()))
        dns_processes.publish(pool, [change], snapshot=False)
        if n % 10 == 0:
            dns_processes.publish(pool, made.snapshot())
    deadline = time.monotonic() + 60
    while not contents(ask("new-49.shop.svc.hyperos.local")):
        assert time.monotonic() < deadline


def test_many_queries_on_one_connection_are_answered_in_order(pool: workers.WorkerPool) -> None:
    queries = [dnslib.DNSRecord.question(WEB if n % 2 else LARGE) for n in range(300)]
    with socket.create_connection(("127.0.0.1", dns_processes.PORT), timeout=30) as sock:
        packed = [bytes(query.pack()) for query in queries]
        sending = threading.Thread(
            target=sock.sendall, args=(b"".join(len(data).to_bytes(2, "big") + data for data in packed),)
        )
        sending.start()
        with sock.makefile("rb") as stream:
            for query in queries:
                reply = stream.read(int.from_bytes(stream.read(2), "big"))
                assert reply[:2] == query.header.id.to_bytes(2, "big")
        sending.join()


def test_nothing_at_all_gets_no_answer(pool: workers.WorkerPool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", dns_processes.PORT))
        sock.send(b"")
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(512)
    with socket.create_connection(("127.0.0.1", dns_processes.PORT), timeout=30) as stream:
        stream.sendall(b"\0\0")
        assert stream.recv(2) == b""
    assert contents(ask(WEB)) == contents(ask(WEB, tcp=True)) == ["10.112.0.9"]


def test_silent_connections_keep_nobody_out(pool: workers.WorkerPool) -> None:
    silent = [socket.create_connection(("127.0.0.1", dns_processes.PORT), timeout=30) for _ in range(600)]
    try:
        assert contents(ask(WEB, tcp=True)) == ["10.112.0.9"]
        assert total(pool, "tcp", counters.REFUSED_CONNECTIONS) >= 600 - 512
    finally:
        for sock in silent:
            sock.close()


def test_a_taken_port_is_one_clear_error(netns: None) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", dns_processes.PORT))
        with pytest.raises(errors.ListenError, match=f"DNS_PORT {dns_processes.PORT} can't be bound"):
            workers.WorkerPool(port=dns_processes.PORT, udp_processes=1)


def test_a_dead_process_is_noticed(pool: workers.WorkerPool) -> None:
    os.kill(pool.pids()[0], signal.SIGKILL)
    with pytest.raises(errors.WorkerDiedError, match="udp-0 ended with status -9"):
        pool.run(threading.Event())
