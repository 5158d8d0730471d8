"""A replaced pod is a new namespace with empty tables: firewall and connections through VIPs are taken over."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import shutil
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator

import pytest
import sctp
import vip_topology as topology
from vip_topology import CLIENT, FOREIGN, NODE, SERVERS, VIP, Node, backend, frontend, vips

from cnf.netlink import wire
from cnf.vip import elements, errors, nftables, tracking, transaction, writer
from cnf.vip.handover import files, flows
from cnf.vip.handover import state as handover_state
from cnf.vip.tracking import Flow, FlowEnd

pytestmark = pytest.mark.netns

MANY = 40
OWNER = "fleet/c1/n1"
NFT = shutil.which("nft")


@pytest.fixture
def echo() -> Iterator[topology.Echo]:
    with topology.running() as echo:
        yield echo


def handover(
    folder: pathlib.Path,
    node: Node | None = None,
    *,
    owner: str = OWNER,
    run_dir: pathlib.Path | None = None,
    boot: str | None = None,
) -> handover_state.Handover:
    with topology.inside("cnf"):
        firewall_writer = node.firewall_writer if node is not None else writer.FirewallWriter()
        return handover_state.Handover(
            firewall_writer, owner=owner, state_dir=folder, run_dir=run_dir or folder, boot=boot
        )


def save(folder: pathlib.Path, node: Node) -> None:
    made = handover(folder, node)
    with topology.inside("cnf"):
        made.save()


def take_over(folder: pathlib.Path, *, owner: str = OWNER, boot: str | None = None) -> handover_state.TakenOver:
    made = handover(folder, owner=owner, boot=boot)
    with topology.inside("cnf"):
        return made.take_over()


@contextlib.contextmanager
def connections(count: int, *, servers: list[str] = SERVERS) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Open connections through the VIP; gives (client, server) pairs."""
    with contextlib.ExitStack() as opened:
        listeners = []
        for server in servers:
            with topology.inside("servers"):
                listeners.append(opened.enter_context(socket.create_server((server, 8080), backlog=256)))
        pairs = []
        for _ in range(count):
            with topology.inside("pods"):
                client = opened.enter_context(socket.socket())
            client.settimeout(10)
            client.bind((CLIENT, 0))
            client.connect((VIP, 80))
            accepted, _ = topology.accept_any(listeners)
            accepted.settimeout(10)
            pairs.append((client, opened.enter_context(accepted)))
        yield pairs


def alive(pair: tuple[socket.socket, socket.socket], *, server_first: bool) -> bool:
    """Send each way, once without waiting for the other."""
    client, server = pair
    first, second = (server, client) if server_first else (client, server)
    try:
        first.sendall(b"one")
        if topology.read_exactly(second, 3) != b"one":
            return False
        second.sendall(b"two")
        return topology.read_exactly(first, 3) == b"two"
    except OSError:
        return False


def test_forty_connections_outlive_the_namespace_whichever_end_sends_first(
    echo: topology.Echo, tmp_path: pathlib.Path
) -> None:
    node = Node()
    node.sync(vips((frontend(), backend(SERVERS))))
    with connections(MANY) as pairs:
        save(tmp_path, node)
        topology.replace_cnf()
        taken_over = take_over(tmp_path)
        topology.wire()
        assert taken_over == handover_state.TakenOver(firewall=True, connections=MANY)
        living = [alive(pair, server_first=number % 2 == 0) for number, pair in enumerate(pairs)]
    assert living.count(True) == MANY


def test_without_what_was_kept_a_server_that_sends_first_is_reset(echo: topology.Echo, tmp_path: pathlib.Path) -> None:
    node = Node()
    node.sync(vips((frontend(), backend(SERVERS))))
    with connections(4) as pairs:
        save(tmp_path, node)
        (tmp_path / "connections").unlink()
        topology.replace_cnf()
        assert take_over(tmp_path) == handover_state.TakenOver(firewall=True)
        topology.wire()
        for client, _ in pairs:
            client.settimeout(1)  # it is the server that is reset; the client receives nothing
        assert not any(alive(pair, server_first=True) for pair in pairs)


def test_a_pod_that_is_its_own_endpoint_keeps_its_connections(echo: topology.Echo, tmp_path: pathlib.Path) -> None:
    node = Node()
    node.sync(vips((frontend(), backend([CLIENT])), hairpin=CLIENT))
    with topology.inside("pods"):
        listener = socket.create_server((CLIENT, 8080))
        client = socket.socket()
    with listener, client:
        client.settimeout(10)
        client.bind((CLIENT, 0))
        client.connect((VIP, 80))
        server, peer = topology.accept_any([listener])
        assert peer == NODE
        with server:
            save(tmp_path, node)
            topology.replace_cnf()
            assert take_over(tmp_path).connections == 1
            topology.wire()
            assert alive((client, server), server_first=True)


def test_udp_flows_come_back_as_they_were(echo: topology.Echo, tmp_path: pathlib.Path) -> None:
    node = Node()
    node.sync(vips((frontend(53, "udp"), backend(SERVERS, 8053))))
    for server in SERVERS:
        echo.listen("servers", server, 8053, udp=True)
    with topology.udp_socket(CLIENT) as sock:
        first = topology.exchange(sock, VIP, 53).server
        save(tmp_path, node)
        topology.replace_cnf()
        assert take_over(tmp_path).connections == 1
        topology.wire()
        assert topology.exchange(sock, VIP, 53).server == first


def test_an_sctp_association_goes_on_though_its_endpoint_sends_first(
    echo: topology.Echo, tmp_path: pathlib.Path
) -> None:
    node = Node()
    node.sync(vips((frontend(3868, "sctp"), backend(SERVERS[:1], 38680))))
    with sctp.End("pods", CLIENT, 40000) as client, sctp.End("servers", SERVERS[0], 38680) as server:
        sctp.associate(client, {SERVERS[0]: server}, VIP, 3868)
        save(tmp_path, node)
        topology.replace_cnf()
        assert take_over(tmp_path).connections == 1
        topology.wire()
        server.send(CLIENT, 40000, sctp.DATA, sctp.PAYLOAD, tag=sctp.CLIENT_TAG)
        found = client.receive()
    assert (found.source, found.source_port, found.chunk) == (VIP, 3868, sctp.DATA)


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("present", [{53: SERVERS[:1]}, {54: SERVERS}])
def test_udp_flows_that_nothing_answers_any_more_end_once_the_services_are_known(
    echo: topology.Echo, tmp_path: pathlib.Path, present: dict[int, list[str]], *, guarded: bool
) -> None:
    node = Node()
    node.sync(vips((frontend(53, "udp"), backend(SERVERS[1:2], 8053))))
    echo.listen("servers", SERVERS[1], 8053, udp=True)
    with topology.udp_socket(CLIENT) as sock:
        topology.exchange(sock, VIP, 53)
        save(tmp_path, node)
        if guarded:
            (tmp_path / "firewall").unlink()
        topology.replace_cnf()
        assert take_over(tmp_path) == handover_state.TakenOver(firewall=not guarded, connections=1)
        topology.wire()
        successor = Node()
        assert topology.exchange(sock, VIP, 53).server == SERVERS[1]
        for server in SERVERS[:1]:
            echo.listen("servers", server, 8053, udp=True)
        successor.sync(vips(*((frontend(port, "udp"), backend(servers, 8053)) for port, servers in present.items())))
        if 53 in present:
            assert topology.exchange(sock, VIP, 53).server == SERVERS[0]
        else:
            with pytest.raises(ConnectionRefusedError):
                topology.exchange(sock, VIP, 53)


def test_a_restarted_process_changes_nothing_in_its_own_namespace(echo: topology.Echo, tmp_path: pathlib.Path) -> None:
    node = Node()
    node.sync(vips((frontend(), backend(SERVERS))))
    save(tmp_path, node)
    assert take_over(tmp_path) == handover_state.TakenOver(firewall=True, same_namespace=True)
    (tmp_path / "firewall").unlink()
    assert take_over(tmp_path) == handover_state.TakenOver(firewall=True, same_namespace=True)


def test_a_process_killed_before_it_filled_the_table_is_made_good_from_what_is_kept(
    echo: topology.Echo, tmp_path: pathlib.Path
) -> None:
    node = Node()
    node.sync(vips((frontend(), backend(SERVERS))))
    for server in SERVERS:
        echo.listen("servers", server, 8080)
    save(tmp_path, node)
    with topology.inside("cnf"):
        nftables.apply(nftables.render_base(topology.firewall()))
    with pytest.raises(TimeoutError):
        topology.ask(CLIENT, VIP, timeout_s=0.5)

    assert take_over(tmp_path) == handover_state.TakenOver(firewall=True, same_namespace=True)

    assert topology.ask(CLIENT, VIP).server in SERVERS


def test_a_former_firewall_that_is_put_back_in_part_leaves_no_table(
    echo: topology.Echo, tmp_path: pathlib.Path
) -> None:
    rules, filling = (
        nftables.render_base(topology.firewall()),
        transaction.encode([elements.frame_table_deletion("none")]),
    )
    content = zlib.compress(rules.encode() + b"\0" + filling.content)
    files.write(tmp_path / "firewall", content, origin=files.HandoverOrigin(OWNER, "x", 1), taken_s=0)
    echo.listen("servers", SERVERS[0], 8080)
    assert take_over(tmp_path) == handover_state.TakenOver()
    with topology.inside("cnf"):
        assert transaction.table_active() is None

    Node()

    assert topology.ask(CLIENT, SERVERS[0], 8080).server == SERVERS[0]


def test_what_a_cnf_kept_that_had_nft_write_the_elements_is_taken_over(
    echo: topology.Echo, tmp_path: pathlib.Path
) -> None:
    node = Node()
    node.sync(vips((frontend(), backend(SERVERS))))
    with connections(1) as pairs:
        save(tmp_path, node)
        element = f"{VIP} . tcp . 80 : {SERVERS[0]} . 8080"
        whole = (
            nftables.render_base(topology.firewall())
            + f"delete table inet {nftables.CLOSED_TABLE}\n"
            + f"add element inet fleetboard spread4_1 {{ {element} }}\n"
        )
        files.write(
            tmp_path / "firewall", zlib.compress(whole.encode()), origin=files.HandoverOrigin(OWNER, "x", 1), taken_s=0
        )
        for name in ("firewall", "connections"):
            assert (tmp_path / name).read_bytes().startswith(b'{"format":2,')  # as those cnf wrote
        topology.replace_cnf()
        assert take_over(tmp_path) == handover_state.TakenOver(firewall=True, connections=1)
        topology.wire()
        assert alive(pairs[0], server_first=True)
    echo.listen("servers", SERVERS[0], 8080)
    assert topology.ask(CLIENT, VIP).server == SERVERS[0]


def break_nft(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, *, at: str) -> None:
    """Have nft end as by the kernel's out-of-memory killer on rulesets that have ``at`` in them."""
    folder.mkdir()
    script = f'[ "$1" = -f ] || exec {NFT} "$@"\ntext=$(cat)\ncase $text in *"{at}"*) kill -9 $$ ;; esac\n'
    (folder / "nft").write_text(f'#!/bin/sh\n{script}printf \'%s\\n\' "$text" | {NFT} "$@"\n')
    (folder / "nft").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_where_nft_dies_of_the_former_firewall_nothing_is_forwarded(
    echo: topology.Echo, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    node.sync(vips((frontend(), backend(SERVERS))))
    echo.listen("servers", SERVERS[0], 8080)
    save(tmp_path, node)
    topology.replace_cnf()
    break_nft(tmp_path / "bin", monkeypatch, at="chain choose4")
    assert take_over(tmp_path) == handover_state.TakenOver()
    topology.wire()
    with pytest.raises(TimeoutError):
        topology.ask(CLIENT, SERVERS[0], 8080, timeout_s=0.5)


def test_where_nft_dies_of_everything_the_start_fails(
    echo: topology.Echo, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_nft(tmp_path / "bin", monkeypatch, at="table")
    with pytest.raises(errors.NftUnavailableError, match="ended by signal 9"):
        take_over(tmp_path)


def test_a_firewall_without_its_connections_is_taken_over(
    echo: topology.Echo, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    node.sync(vips((frontend(), backend(SERVERS))))
    with connections(1):
        save(tmp_path, node)
    topology.replace_cnf()
    monkeypatch.setattr(tracking, "NETLINK_NETFILTER", 31)  # what a kernel without conntrack says
    assert take_over(tmp_path) == handover_state.TakenOver(firewall=True)


@pytest.mark.parametrize("harm", ["gone", "torn", "foreign", "not ours"])
def test_without_a_firewall_to_take_over_nothing_is_forwarded_until_there_is_one(
    echo: topology.Echo, tmp_path: pathlib.Path, harm: str
) -> None:
    node = Node()
    node.sync(vips((frontend(), backend(SERVERS))))
    for server in SERVERS:
        echo.listen("servers", server, 8080)
    save(tmp_path, node)
    rules, connections = tmp_path / "firewall", tmp_path / "connections"
    match harm:
        case "gone":
            rules.unlink()
        case "torn":
            rules.write_bytes(rules.read_bytes()[:-9])
            connections.write_bytes(connections.read_bytes()[:-1])
        case "foreign":
            files.write(rules, b"no zlib", origin=files.HandoverOrigin(OWNER, "x", 1), taken_s=0)
            connections.write_bytes(b"\0" * 4096)
        case "not ours":
            rules.write_bytes(b"{}\n")
            connections.unlink()
    topology.replace_cnf()
    assert not take_over(tmp_path).firewall
    topology.wire()
    with pytest.raises(TimeoutError):
        topology.ask(CLIENT, SERVERS[0], 8080, timeout_s=0.5)
    with pytest.raises(TimeoutError):
        topology.ask(CLIENT, topology.UPLINK, 8080, timeout_s=0.5)

    Node().sync(vips((frontend(), backend(SERVERS))))
    assert topology.ask(CLIENT, VIP).server in SERVERS


def test_connections_of_a_former_boot_stay_away_and_its_firewall_does_not(
    echo: topology.Echo, tmp_path: pathlib.Path
) -> None:
    node = Node()
    node.sync(vips((frontend(), backend(SERVERS))))
    with connections(1):
        save(tmp_path, node)
    topology.replace_cnf()
    assert take_over(tmp_path, boot="another") == handover_state.TakenOver(firewall=True)


def test_what_another_node_left_stays_away(echo: topology.Echo, tmp_path: pathlib.Path) -> None:
    node = Node()
    node.sync(vips((frontend(), backend(SERVERS))))
    echo.listen("servers", SERVERS[0], 8081)
    with connections(1):
        save(tmp_path, node)
    topology.replace_cnf()
    assert take_over(tmp_path, owner="fleet/c2/n1") == handover_state.TakenOver()
    topology.wire()
    with pytest.raises(TimeoutError):
        topology.ask(CLIENT, SERVERS[0], 8081, timeout_s=0.5)


def test_only_translated_connections_that_live_are_kept(
    echo: topology.Echo, eventually: Callable[[Callable[[], object]], None]
) -> None:
    echo.listen("servers", SERVERS[0], 8081)
    node = Node()
    node.sync(vips((frontend(), backend(SERVERS)), (frontend(81), backend(SERVERS[:1], 8081))))
    for _ in range(5):
        topology.ask(CLIENT, SERVERS[0], 8081)
        topology.ask(CLIENT, VIP, 81)
    with connections(3), topology.inside("cnf"):
        # The last of the others has ended once the echo has closed its side, too.
        eventually(lambda: len(list(flows.plan_restore(flows.read(), age_s=0))) == 3)


def test_living_connections_come_before_half_open_ones(echo: topology.Echo) -> None:
    Node().sync(vips((frontend(), backend(SERVERS))))
    fill(flows.MAX_ENTRIES, state=1)
    with connections(3), topology.inside("cnf"):
        first = itertools.islice(flows.plan_restore(flows.read(), age_s=0), 3)
        states = [wire.attributes(message.body[tracking.HEAD.size :])[tracking.PROTOINFO] for message in first]
    assert [wire.attributes(wire.attributes(state)[1])[1] for state in states] == [b"\3"] * 3


def fill(count: int, *, state: int = 3) -> None:
    """Track ``count`` connections, which the table counts as ones to VIPs."""
    client, target, vip = (socket.inet_aton(text) for text in (CLIENT, FOREIGN, VIP))
    info = wire.nested(4, wire.nested(1, wire.u8(1, state)))
    bodies = []
    for number in range(count):
        source = FlowEnd(client[:3] + bytes([number >> 15]), struct.pack(">H", 1024 + (number & 0x7FFF)))
        parts = (
            Flow(socket.IPPROTO_TCP, source, FlowEnd(vip, b"\0\x50")).encode(tracking.TUPLE_ORIG),
            Flow(socket.IPPROTO_TCP, FlowEnd(target, b"\x1f\x90"), source).encode(tracking.TUPLE_REPLY),
            wire.attribute(tracking.STATUS, tracking.be32(tracking.DST_NAT | tracking.SEEN_REPLY | tracking.ASSURED)),
            wire.attribute(tracking.TIMEOUT, tracking.be32(432_000)),
        )
        bodies.append(tracking.head(4) + b"".join(parts) + info)
    with topology.inside("cnf"):
        assert flows.restore(tracking.join(bodies), age_s=0) == count


def test_many_connections_are_bounded_and_seldom_written(
    echo: topology.Echo, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Node()
    node.sync(vips((frontend(), backend(SERVERS))))
    fill(50_000)
    made = handover(tmp_path, node)
    with topology.inside("cnf"):
        assert len(list(flows.plan_restore(flows.read(), age_s=0))) == flows.MAX_ENTRIES
        started, spent = time.perf_counter(), time.process_time()
        made.save()
        took, cpu = time.perf_counter() - started, time.process_time() - spent
    topology.replace_cnf()
    started = time.perf_counter()
    taken_over = take_over(tmp_path)
    back = time.perf_counter() - started
    with capsys.disabled():
        print(
            f"\n50 000 connections: {flows.MAX_ENTRIES} kept in {took * 1000:.0f} ms ({cpu * 1000:.0f} ms of CPU), "
            f"put back in {back * 1000:.0f} ms"
        )
    assert taken_over.connections == flows.MAX_ENTRIES


@pytest.mark.parametrize("refused", ["firewall", "connections"])
def test_a_disk_that_takes_nothing_is_reported_and_the_other_has_its_file(
    echo: topology.Echo, tmp_path: pathlib.Path, refused: str
) -> None:
    node = Node()
    node.sync(vips((frontend(), backend(SERVERS))))
    folders = {"firewall": tmp_path, "connections": tmp_path, refused: tmp_path / "missing"}
    with topology.inside("cnf"):
        made = handover(folders["firewall"], node, run_dir=folders["connections"])
        with pytest.raises(errors.HandoverError, match=f"{refused} can't be written"):
            made.save()
    assert [path.name for path in tmp_path.iterdir()] == [
        {"firewall": "connections", "connections": "firewall"}[refused]
    ]
