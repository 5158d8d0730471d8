"""A hundred thousand broken packets do the answering processes no harm, and no answer is worse than what was asked.

The seed is printed; ``FLEETBOARD_SEED`` gives it again.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import random
import socket
import time
from collections.abc import Iterator

import dns_packets
import dns_processes
import dnslib
import pytest
from dns_objects import make_endpoint, make_service, make_slice

from crossdns.server import answerer, counters, workers
from crossdns.zone import table, zone
from fleetboard.model.keys import ServiceKey
from fleetboard.model.reach import Reach

pytestmark = pytest.mark.netns

UDP_PACKETS, TCP_PACKETS = 70_000, 30_000
BATCH = 50
"""How many are sent before the answers are read: never more than a socket's buffer holds."""
MESSAGES = 5
"""On one connection: the first that deserves no answer ends it."""
GROWN_KB = 4096
"""Of memory, between a tenth of the packets and all of them: what one leaked packet in ten would take."""
SEEDS = (
    dns_packets.query(),
    dns_packets.query(type_="SRV"),
    dns_packets.query(type_="ANY"),
    dns_packets.query("both.shop.svc.clusterset.local"),
    dns_packets.query("both.shop.svc.clusterset.local", "AAAA"),
    dns_packets.query("no." + dns_packets.WEB),
    dns_packets.query("dns-version.clusterset.local", "TXT"),
    dns_packets.query("example.com"),
    dns_packets.query("hyperos.local", "AXFR"),
    dns_packets.with_opt(dns_packets.query("large.shop.svc.hyperos.local"), size=65535),
    dns_packets.with_opt(dns_packets.query("both.shop.svc.clusterset.local"), size=700, flags=0x8000),
    dns_packets.with_opt(dns_packets.query("hyperos.local", "SOA"), options=b"\0\3\0\0"),
    dns_packets.with_opt(dns_packets.query(), version=1, options=b"\0\x0a\0\x08" + b"c" * 8),
    dns_packets.with_questions(dns_packets.query(), 20),
    dns_packets.with_circles(dns_packets.query(), 500),
)


@pytest.fixture(scope="module", autouse=True)
def netns() -> Iterator[None]:
    with dns_processes.inside("dns-hostile"):
        yield


@pytest.fixture
def pool(netns: None) -> Iterator[workers.WorkerPool]:
    with dns_processes.running(make_table()) as made:
        yield made


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("FLEETBOARD_SEED") or time.time_ns() % 1_000_000)
    print(f"FLEETBOARD_SEED={seed}")
    return random.Random(seed)


def make_table() -> table.Table:
    """Add a headless service of both families, host names and ports."""
    made = dns_processes.make_table()
    key = ServiceKey("shop", "both")
    four = [make_endpoint(f"10.112.8.{n}", hostname=f"h{n}") for n in range(1, 41)]
    six = [make_endpoint(f"fd00::{n}", hostname=f"h{n}") for n in range(1, 41)]
    slices = [make_slice("c1", four, key=key), make_slice("c1", six, key=key)]
    made.put(key, zone.service_records(key, make_service(key, type_="Headless"), slices, Reach()))
    return made


class Judge:
    """Looks at every answer; the same bytes behind the id are parsed once."""

    def __init__(self) -> None:
        self.answers = 0
        self._parsed: set[bytes] = set()

    def look(self, reply: bytes, asked: bytes, *, limit: int) -> None:
        self.answers += 1
        assert reply[:2] == asked[:2]
        assert reply[2] & 0x80, asked.hex()
        assert len(reply) <= limit, asked.hex()
        if reply[2:] in self._parsed:
            return
        self._parsed.add(reply[2:])
        try:
            dnslib.DNSRecord.parse(reply)
        except (dnslib.DNSError, ValueError, IndexError) as err:
            raise AssertionError(f"{asked.hex()} was answered with {reply.hex()}") from err


def mutated(chance: random.Random, number: int) -> bytes:
    """Make a packet under an id that is its own among those of its batch."""
    data = dns_packets.mutate(chance.choice(SEEDS), chance)
    return number.to_bytes(2, "big") + data[2:]


def send_datagrams(chance: random.Random, count: int, judge: Judge) -> None:
    """Send by datagrams; behind each batch goes a good query, whose answer says that the batch is dealt with."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", dns_processes.PORT))
        sock.settimeout(60)
        end = (0xFFFF).to_bytes(2, "big") + dns_packets.query()[2:]
        for _ in range(count // BATCH):
            sent = [mutated(chance, number) for number in range(BATCH)]
            for data in (*sent, end):
                sock.send(data)
            while (reply := sock.recv(65535))[:2] != end[:2]:
                asked = sent[int.from_bytes(reply[:2], "big")]
                judge.look(reply, asked, limit=min(dns_packets.largest_asked(asked), answerer.UDP_MAX))


def send_streams(chance: random.Random, count: int, judge: Judge) -> None:
    """Send by connections, many messages on each; one in ten has lengths that are wrong."""
    for number in range(count // MESSAGES):
        sent = [mutated(chance, n) for n in range(MESSAGES)]
        stream = b"".join(len(data).to_bytes(2, "big") + data for data in sent)
        if number % 10 == 0:
            stream = dns_packets.mutate(stream, chance)
            sent = []
        connecting = socket.create_connection(("127.0.0.1", dns_processes.PORT), timeout=60)
        # It may close on us in the middle: a message that deserves no answer ends a connection.
        with connecting as sock, contextlib.suppress(ConnectionError):
            sock.sendall(stream)
            end_stream(sock)
            for reply in read_messages(sock):
                asked = sent[int.from_bytes(reply[:2], "big")] if sent else reply
                judge.look(reply, asked, limit=answerer.TCP_MAX)


def end_stream(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError as err:
        if err.errno != errno.ENOTCONN:
            raise


def read_messages(sock: socket.socket) -> Iterator[bytes]:
    with sock.makefile("rb") as stream:
        while length := stream.read(2):
            message = stream.read(int.from_bytes(length, "big"))
            assert len(message) == int.from_bytes(length, "big")
            yield message


@pytest.mark.timeout(900)  # half a minute of processor time
def test_a_hundred_thousand_mutated_packets(pool: workers.WorkerPool, chance: random.Random) -> None:
    judge = Judge()
    send_datagrams(chance, UDP_PACKETS // 10, judge)
    send_streams(chance, TCP_PACKETS // 10, judge)
    gc.collect()
    pids = pool.pids()
    before = [(dns_processes.own_kb(pid), dns_processes.descriptors(pid)) for pid in pids]
    send_datagrams(chance, UDP_PACKETS * 9 // 10, judge)
    send_streams(chance, TCP_PACKETS * 9 // 10, judge)
    after = [(dns_processes.own_kb(pid), dns_processes.descriptors(pid)) for pid in pids]
    print(f"{judge.answers} answers; memory and descriptors {before} -> {after}")
    assert judge.answers > (UDP_PACKETS + TCP_PACKETS) // 4
    for (kb, open_), (kb_after, open_after) in zip(before, after, strict=True):
        assert kb_after - kb < GROWN_KB
        assert open_after <= open_ + 1
    assert pool.gone() is None
    assert not [slot for slot in pool.slots if pool.counts(slot)[counters.FAILED]]
