"""One service that the kernel refuses holds up no other, and is in force once its cause has gone."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator

import pytest
import vip_topology as topology
from vip_topology import CLIENT, SERVERS, VIP, Node, backend, exported, frontend, vips

from cnf.vip import nftables
from cnf.vip.table import Backend, BackendAddress, Shares

pytestmark = pytest.mark.netns

MISMATCHED = Backend((BackendAddress(ipaddress.ip_address("fd00::5"), 8080),))
"""No kernel takes that as the answer of an IPv4 address."""
GOOD = vips((frontend(), backend(SERVERS)))


@pytest.fixture(scope="module")
def echo() -> Iterator[topology.Echo]:
    with topology.serving() as echo:
        yield echo


def sync(node: Node, shares: Shares) -> None:
    with topology.inside("cnf"):
        node.firewall_writer.sync(shares)


def answers(port: int) -> bool:
    try:
        return topology.ask(CLIENT, VIP, port).server in SERVERS
    except ConnectionRefusedError:
        return False


@pytest.fixture
def node(echo: topology.Echo) -> Node:
    node = Node()
    sync(node, {"good": GOOD})
    return node


def test_the_others_are_in_force_at_once_and_the_refused_one_once_it_is_mended(node: Node) -> None:
    written = node.firewall_writer.replacements
    new = vips((frontend(82), backend(SERVERS[:1])))
    sync(node, {"good": GOOD, "bad": vips((frontend(81), MISMATCHED)), "new": new})

    assert [answers(port) for port in (80, 81, 82)] == [True, False, True]
    assert node.firewall_writer.refused.describe() == f"bad ({VIP}:81/tcp: add to spread4_1: Invalid argument)"

    sync(node, {"good": GOOD, "bad": vips((frontend(81), backend(SERVERS[:1]))), "new": new})

    assert [answers(port) for port in (80, 81, 82)] == [True, True, True]
    assert not node.firewall_writer.refused
    assert node.firewall_writer.replacements == written


def test_a_service_whose_change_is_refused_stays_as_it_was(node: Node) -> None:
    changed = vips((frontend(), MISMATCHED), (frontend(81), backend(SERVERS)))

    sync(node, {"good": changed, "new": vips((frontend(82), backend(SERVERS)))})

    assert [answers(port) for port in (80, 81, 82)] == [True, False, True]


def test_two_refused_services_are_found_when_the_table_is_replaced(node: Node) -> None:
    with topology.inside("cnf"):
        nftables.apply("delete table inet fleetboard\n")
    sticky = Backend(backend(["fd00::5", "fd00::6"]).targets, sticky=True)
    shares = {
        "bad": vips((frontend(81), MISMATCHED)),
        "good": GOOD,
        "worse": vips((frontend(82), sticky), exported=exported(SERVERS[0], 8080)),
        "zenith": vips((frontend(83), backend(SERVERS)), exported=exported(SERVERS[1], 8080)),
    }

    sync(node, shares)

    assert [answers(port) for port in (80, 81, 82, 83)] == [True, False, False, True]
    assert topology.ask(topology.FOREIGN, SERVERS[1], 8080, namespace="far").server == SERVERS[1]
    with pytest.raises(OSError, match="No route to host"):
        topology.ask_at_once(topology.FOREIGN, SERVERS[0], 8080, namespace="far")
    assert len(node.firewall_writer.refused) == 2


def test_one_that_the_kernel_had_no_room_for_is_tried_again_until_there_is(echo: topology.Echo) -> None:
    base = nftables.render_base(topology.firewall())
    narrow = base.replace("map spread4_1 {", "map spread4_1 { size 2;")
    assert narrow != base
    with topology.inside("cnf"):
        nftables.apply(narrow)
    node = Node()
    shares = {f"s{port}": vips((frontend(port), backend(SERVERS[:1]))) for port in (81, 82, 83)}

    sync(node, shares)

    served = [port for port in (81, 82, 83) if answers(port)]
    (refused,) = {81, 82, 83}.difference(served)
    assert node.firewall_writer.refused.describe().startswith(f"s{refused} ({VIP}:{refused}/tcp: ")
    del shares[f"s{served[0]}"]
    began = time.monotonic()
    sync(node, shares)
    while not answers(refused) and time.monotonic() < began + 60:
        time.sleep(min(1.0, node.firewall_writer.refused.wait_s))
        sync(node, shares)
    assert answers(refused)
    assert answers(served[1])
    assert not node.firewall_writer.refused
