"""A cnf whose table has other chains and maps than the one in force exchanges them, and no client notices."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import vip_topology as topology
from vip_topology import CLIENT, FOREIGN, SERVERS, VIP, Node, backend, exported, frontend, vips

from cnf.vip import errors, firewall, nftables, transaction, writer
from cnf.vip.table import Shares

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]

SERVICES = 1500
MANY: Shares = {
    "mine": vips((frontend(), backend(SERVERS)), exported=exported(SERVERS[0], 8080)),
    **{
        f"s{number}": vips((frontend(vip=f"10.112.{number // 250 + 1}.{number % 250}"), backend(SERVERS)))
        for number in range(SERVICES)
    },
}
"""24 000 elements."""


@pytest.fixture(scope="module")
def echo() -> Iterator[topology.Echo]:
    with topology.serving() as echo:
        echo.listen("far", FOREIGN, 8053, udp=True)
        yield echo


def list_tables() -> list[str]:
    return topology.run("ip", "netns", "exec", topology.name("cnf"), "nft", "list", "tables").splitlines()


def stand_as_another_version() -> None:
    """Put the table in force as a cnf with one chain more left it."""
    node = Node()
    with topology.inside("cnf"):
        node.firewall_writer.sync(MANY)
        whole = node.firewall_writer.render()
        assert whole is not None
        rules = re.sub(r"chain layout_\w+ \{ \}", "chain layout_00000000 { }\n  chain more { }", whole.rules)
        assert rules != whole.rules
        writer.put(dataclasses.replace(whole, rules=rules))


@dataclasses.dataclass
class Traffic:
    """What clients saw: datagrams, those without an answer, connections, and how many of their openings were lost."""

    sent: int = 0
    lost: int = 0
    connected: int = 0
    sent_again: int = 0
    refused: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def traffic() -> Iterator[Traffic]:
    """Send a datagram a millisecond to another cluster's pod, and open connections to a virtual address meanwhile.

    From the other cluster connections are opened to an exported port: a table whose sets are empty refuses those.
    """
    seen, stop = Traffic(), threading.Event()

    def send() -> None:
        answered = 0
        with topology.udp_socket(CLIENT) as sock:
            sock.setsockopt(socket.SOL_SOCKET, topology.SO_RCVBUFFORCE, 8 << 20)
            sock.connect((FOREIGN, 8053))
            sock.setblocking(False)
            while not stop.is_set():
                sock.send(b"?")
                seen.sent += 1
                time.sleep(0.001)
                with contextlib.suppress(BlockingIOError):
                    while sock.recv(100):
                        answered += 1
            sock.settimeout(2)
            with contextlib.suppress(TimeoutError):
                while answered < seen.sent:
                    sock.recv(100)
                    answered += 1
        seen.lost = seen.sent - answered

    def connect(source: str, target: str, port: int, namespace: str) -> None:
        while not stop.is_set():
            try:
                topology.ask(source, target, port, namespace=namespace)
                seen.connected += 1
            except OSError as err:
                seen.refused.append(f"from {namespace}: {err}")

    before = openings_sent_again()
    threads = [
        threading.Thread(target=send),
        threading.Thread(target=connect, args=(CLIENT, VIP, 80, "pods")),
        threading.Thread(target=connect, args=(FOREIGN, SERVERS[0], 8080, "far")),
    ]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.2)
        yield seen
        time.sleep(0.2)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    seen.sent_again = openings_sent_again() - before


def openings_sent_again() -> int:
    """Return how many SYN the clients sent a second time: what was dropped, and no slow machine's delay."""
    again = 0
    for namespace in ("pods", "far"):
        with topology.inside(namespace):
            lines = pathlib.Path("/proc/thread-self/net/netstat").read_text().splitlines()
        names, counts = (line.split() for line in lines[:2])
        again += int(counts[names.index("TCPSynRetrans")])
    return again


def test_the_table_of_another_version_serves_until_ours_does(echo: topology.Echo) -> None:
    stand_as_another_version()
    node = Node()

    with traffic() as seen:
        began = time.monotonic()
        with topology.inside("cnf"):
            node.firewall_writer.sync(MANY)
        took_s = time.monotonic() - began

    print(f"exchanged in {took_s:.2f} s: {seen}")
    assert "layout_00000000" not in topology.run("ip", "netns", "exec", topology.name("cnf"), "nft", "list", "chains")
    assert (seen.lost, seen.sent_again, seen.refused) == (0, 0, []), seen
    assert seen.connected > 20


class EndedError(Exception):
    """The process was killed."""


@pytest.mark.parametrize("batches", range(4))
def test_a_process_that_ended_in_the_middle_of_it_leaves_what_serves_and_the_next_one_goes_on(
    echo: topology.Echo, batches: int
) -> None:
    stand_as_another_version()
    written = 0

    def write(batch: transaction.Batch) -> None:
        nonlocal written
        if written == batches:
            raise EndedError
        written += 1
        transaction.apply(batch)

    with traffic() as seen, topology.inside("cnf"):
        ending = writer.FirewallWriter(write=write)
        ending.set_base(topology.firewall())
        with pytest.raises(EndedError):
            ending.sync(MANY)
        time.sleep(0.2)
        successor = writer.FirewallWriter()
        successor.set_base(topology.firewall())
        successor.sync(MANY)

    assert list_tables() == [f"table {firewall.TABLE}"]
    assert (seen.lost, seen.sent_again, seen.refused) == (0, 0, []), seen
    assert topology.ask(CLIENT, VIP).server in SERVERS


@pytest.mark.parametrize("texts", range(2))
def test_an_nft_that_is_killed_in_the_middle_of_it_costs_no_packet_and_the_next_call_goes_on(
    echo: topology.Echo, texts: int
) -> None:
    stand_as_another_version()
    given = 0

    def apply(text: str) -> None:
        nonlocal given
        if "\n  flags dormant;\n" in text:
            given += 1
            if given == texts + 1:
                raise errors.NftUnavailableError("nft was ended by signal 9")
        nftables.apply(text)

    with traffic() as seen, topology.inside("cnf"):
        made = writer.FirewallWriter(apply=apply)
        made.set_base(topology.firewall())
        with pytest.raises(errors.NftUnavailableError):
            made.sync(MANY)
        served_by = nftables.serving()
        made.sync(MANY)

    assert served_by == (firewall.NAME, nftables.SPARE_TABLE)[texts]
    assert list_tables() == [f"table {firewall.TABLE}"]
    assert (seen.lost, seen.sent_again, seen.refused) == (0, 0, []), seen
