"""The road of the packets between clusters: names, TCP, UDP, bulk, large datagrams, many connections, every node."""

from __future__ import annotations

import collections
import hashlib
import re
from collections.abc import Callable

import lab
import observer
import paths
import paths_pod
import pytest
from paths import EAST, WEST

NAMESPACE = "e2e-paths"
ZONES = ("hyperos.local", "clusterset.local")
CROWD = 300


@pytest.fixture(scope="module")
def world(namespaces: Callable[[str], str]) -> paths.Paths:
    return paths.build(namespaces(NAMESPACE))


def clients(world: paths.Paths) -> dict[str, tuple[paths.Member, str]]:
    """Return who asks which service of the other cluster."""
    return {
        "c1's leader to c2": (world.near, WEST),
        "c1's other node to c2": (world.far, WEST),
        "c2 to c1": (world.west, EAST),
    }


WAYS = ("c1's leader to c2", "c1's other node to c2", "c2 to c1")


@pytest.mark.parametrize("way", WAYS)
def test_a_server_in_another_cluster_answers_by_name_and_sees_the_clients_fleet_address(
    world: paths.Paths, way: str
) -> None:
    client, service = clients(world)[way]
    server, seen = client.fetch(world.name(service))
    assert server.startswith(f"{service}-")
    assert seen == client.address


@pytest.mark.parametrize("size", [64, 3000])
@pytest.mark.parametrize("way", WAYS)
def test_datagrams_return_whole_even_those_larger_than_any_uplink_carries(
    world: paths.Paths, way: str, size: int
) -> None:
    client, service = clients(world)[way]
    result = client.program("echo", world.name(service), str(size), "20")
    assert result["whole"] == 20, result
    lab.record(f"fastest echo of {size} bytes by UDP, {way}, ms", result["best_ms"])


@pytest.mark.parametrize("way", WAYS)
def test_a_hundred_megabytes_arrive_unharmed(world: paths.Paths, way: str) -> None:
    client, service = clients(world)[way]
    expected = hashlib.sha256()
    for piece in paths_pod.blob():
        expected.update(piece)
    # curl's own report goes to a file: the body is hashed as it arrives.
    printed = client.pod.sh(
        f"curl -sS -m 240 -w '%{{stderr}}%{{size_download}} %{{time_total}}' http://{world.name(service)}/blob "
        "2>/tmp/report | sha256sum; cat /tmp/report",
        timeout_s=270,
    )
    checksum, _, size, seconds = printed.split()
    assert (int(size), checksum) == (paths_pod.BLOB_BYTES, expected.hexdigest())
    lab.record(f"download of 100 MB, {way}, Mbit/s", paths_pod.BLOB_BYTES * 8 / 1e6 / float(seconds))


def test_many_connections_at_once_spread_over_all_endpoints_on_both_nodes(world: paths.Paths) -> None:
    answers = world.west.program("crowd", world.name(EAST), str(CROWD))
    served = collections.Counter({line.split()[0]: count for line, count in answers.items()})
    assert {line.split()[1] for line in answers} == {world.west.address}
    assert sum(served.values()) == CROWD
    assert served.keys() == {member.pod.name for member in world.east}
    assert min(served.values()) >= CROWD / len(world.east) / 3, served
    assert len({member.node for member in world.east}) == 2


def test_every_endpoint_answers_under_its_own_address_from_the_other_cluster(world: paths.Paths) -> None:
    for member in world.east:
        answer = world.west.fetch(member.address, port=paths_pod.HTTP_PORT)
        assert answer == [member.pod.name, world.west.address], member.node


@pytest.mark.parametrize("client", ["near", "far"])
def test_pods_of_one_cluster_reach_each_other_across_its_nodes(world: paths.Paths, client: str) -> None:
    here, there = (world.near, world.far) if client == "near" else (world.far, world.near)
    assert here.fetch(there.address, port=paths_pod.HTTP_PORT) == [there.pod.name, here.address]
    result = here.program("echo", there.address, "3000", "20")
    assert result["whole"] == 20, result
    # Within a cluster nothing has to be exported.
    assert here.fetch(there.address, port=paths_pod.HIDDEN_PORT) == [there.pod.name, here.address]


def test_a_cluster_reaches_all_endpoints_of_its_own_service_by_its_fleet_name(world: paths.Paths) -> None:
    answers = world.far.program("crowd", world.name(EAST), "60")
    assert {line.split()[0] for line in answers} == {member.pod.name for member in world.east}
    others = {line.split()[1] for line in answers if not line.startswith(world.far.pod.name)}
    assert others == {world.far.address}


@pytest.mark.parametrize("service", [EAST, WEST])
def test_both_zones_give_every_pod_the_same_address(world: paths.Paths, service: str) -> None:
    answers = {
        (rcode, tuple(addresses))
        for member in (world.near, world.far, world.west)
        for zone in ZONES
        for rcode, addresses in [observer.ask(member.pod, world.name(service, zone))]
    }
    assert len(answers) == 1, answers
    rcode, addresses = answers.pop()
    assert rcode == "NOERROR"
    assert len(addresses) == 1


@pytest.mark.parametrize("zone", ZONES)
def test_an_unknown_service_is_nxdomain(world: paths.Paths, zone: str) -> None:
    for member in (world.near, world.west):
        assert observer.ask(member.pod, world.name("nobody", zone)) == ("NXDOMAIN", [])


def test_a_ping_crosses_the_hub_in_milliseconds(world: paths.Paths) -> None:
    for way, client, target in (
        ("c1's leader to c2", world.near, world.west),
        ("c1's other node to c2", world.far, world.west),
        ("between c1's nodes", world.near, world.far),
    ):
        printed = client.pod.exec("ping", "-q", "-c", "10", "-i", "0.05", "-W", "2", target.address)
        fastest, mean = re.findall(r"= ([\d.]+)/([\d.]+)/", printed)[0]
        lab.record(f"round trip, {way}, mean ms", float(mean))
        # No path of this lab is longer than a few switches in one kernel.
        assert float(fastest) < 50, printed
