"""The hub's API and its tunnels, each up or down, all four together: who follows whom, and what nobody withdraws.

The table is that of docs/operations.md. ``FLEETBOARD_API_AWAY_S`` says for how long the API is away: 300 is promised;
``FLEETBOARD_HUB_AWAY_S`` for how long the API and the tunnels are.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable

import lab
import observer
import outage
import pulse
import pytest
from outage import World, worst

NAMESPACE = "e2e-away"
API_AWAY_S = float(os.environ.get("FLEETBOARD_API_AWAY_S", "60"))
HUB_AWAY_S = float(os.environ.get("FLEETBOARD_HUB_AWAY_S", "60"))
TUNNEL_AWAY_S = 15.0
FOLLOWED_S = 5.0 if API_AWAY_S >= 300 else 15.0
"""Until each side has what the other changed: 5 s, and more on a machine that does much else."""
BACK_S = 8.0
"""Until traffic crosses the hub again."""
ISOLATED_S = 8.0
"""Until clients leave the endpoints of other clusters alone that they can't reach."""
HEADLESS, FAR = "heads", "far"
"""Headless services of both members, and of c2 alone."""
STEADY_S, STRAYS = 5.0, 2
MORE = {"east": "east-more", "west": "west-more"}
HOME = {"east": lab.C1, "west": lab.C2}


@pytest.fixture(scope="module")
def world(namespaces: Callable[[str], str]) -> World:
    found = outage.build(namespaces, NAMESPACE)
    export_headless(lab.C1, HEADLESS)
    export_headless(lab.C2, HEADLESS, FAR)
    return found


@pytest.fixture(autouse=True)
def _all_well(world: World) -> None:
    """Begin each test with every part ready and every target answering."""
    lab.eventually(outage.parts_ready, within_s=outage.READY_S, every_s=0.5)
    world.aim()


def export_headless(cluster: lab.Cluster, *services: str) -> None:
    """Export headless services of the cluster's pulse pods."""
    for name in services:
        made = pulse.service(name, NAMESPACE, side="east" if cluster is lab.C1 else "west")
        made["spec"]["clusterIP"] = "None"
        cluster.apply(made, lab.make_export(name, NAMESPACE))


def grow() -> dict[str, str]:
    """Give each side one more pod; return their names by side."""
    for side, cluster in HOME.items():
        cluster.apply(pulse.deployment(MORE[side], NAMESPACE, node=cluster.nodes()[0], side=side))
    return {side: cluster.wait_pods(NAMESPACE, MORE[side], 1)[0].name for side, cluster in HOME.items()}


def shrink() -> None:
    for side, cluster in HOME.items():
        cluster.delete("deployment", MORE[side], NAMESPACE)


def answered(world: World, side: str, label: str, since: float) -> dict[str, float]:
    """Return when each pod first answered a side's clients that asked for a service, by the pod's name."""
    found: dict[str, float] = {}
    for pod in world.pods.values():
        if pod.cluster == HOME[side]:
            for note in pulse.notes(pod, since):
                if note.began >= since and note.good and note.label == label:
                    found[note.answer] = min(note.ended, found.get(note.answer, note.ended))
    return found


def wait_answer(world: World, side: str, label: str, pod: str, since: float) -> float:
    """Wait until a pod answered a side's clients, and return after how many seconds it did."""
    return lab.eventually(lambda: answered(world, side, label, since)[pod], within_s=30, every_s=0.3) - since


def resolve(world: World, side: str, name: str) -> tuple[str, list[str]]:
    """Ask a side's DNS for a service."""
    pod = next(pod for pod in world.pods.values() if pod.cluster == HOME[side])
    return observer.ask(pod, lab.dns_name(name, NAMESPACE))


def resolved(world: World) -> dict[tuple[str, str], tuple[str, list[str]]]:
    """Return what both sides' DNS says of the three services."""
    return {(side, name): resolve(world, side, name) for side in HOME for name in ("east", "west", "both")}


def own_targets() -> set[tuple[str, str]]:
    """Return who fetches what from its own cluster."""
    east, (west,) = lab.C1.nodes(), lab.C2.nodes()
    return {*((node, "east") for node in east), (west, "west"), *((a, f"to-{b}") for a in east for b in east if a != b)}


def isolated_after(world: World, failed: outage.Failures, since: float) -> float:
    """Return how long clients of the service of both sides still tried what they couldn't reach.

    Among their failures, one by itself with seconds of answers around it is a busy machine's.
    """
    found = [0.0]
    for node in world.pods:
        ends = [note.ended for note in failed.get((node, "both"), [])]
        parted = next(
            (n for n, (before, end) in enumerate(itertools.pairwise(ends), 1) if end - before > STEADY_S), None
        )
        strays = ends[parted:] if parted else []
        assert len(strays) <= STRAYS, world.explain(since)
        found += [end - since for end in ends[:parted]]
    return max(found)


def test_with_api_and_tunnel_up_each_side_follows_the_other(world: World) -> None:
    more = grow()
    since = time.time()
    took_s = max(
        wait_answer(world, "east", "west", more["west"], since), wait_answer(world, "west", "east", more["east"], since)
    )
    shrink()
    lab.record("hub there: a new pod of the other side answers after", took_s)
    assert took_s <= FOLLOWED_S


@pytest.mark.timeout(240 + API_AWAY_S)
def test_with_the_api_down_each_side_follows_its_own_and_keeps_what_it_had_of_the_other(world: World) -> None:
    lab.C1.apply(pulse.service("gone", NAMESPACE, side="east"), lab.make_export("gone", NAMESPACE))
    lab.eventually(lambda: resolve(world, "west", "gone")[1], within_s=20)
    names, gone = resolved(world), resolve(world, "west", "gone")
    with outage.cut(outage.TO_API) as since:
        more = grow()
        for side in HOME:
            took_s = wait_answer(world, side, side, more[side], since)
            lab.record(f"the hub's API away: {side} follows its own new pod, its start included", took_s)
        lab.C1.delete("serviceexport", "gone", NAMESPACE)
        lab.C2.apply(pulse.service("late", NAMESPACE, side="west"), lab.make_export("late", NAMESPACE))
        lab.eventually(lambda: time.time() - since >= API_AWAY_S, within_s=API_AWAY_S + 1, every_s=1)
        failed = world.failures(since, time.time() - pulse.TIMEOUT_S)
        assert more["west"] not in answered(world, "east", "west", since), "the other side's endpoints are frozen"
        assert more["east"] not in answered(world, "west", "east", since), "the other side's endpoints are frozen"
        assert resolved(world) == names
        assert resolve(world, "west", "gone") == gone
        assert resolve(world, "east", "late")[0] == "NXDOMAIN"
        assert not failed
    back = time.time()
    lab.eventually(lambda: resolve(world, "east", "late")[1], within_s=30)
    arrived = {"a new name": time.time() - back}
    lab.eventually(lambda: resolve(world, "west", "gone")[0] == "NXDOMAIN", within_s=30)
    arrived["the end of a name"] = time.time() - back
    arrived["c2's new pod"] = wait_answer(world, "east", "west", more["west"], back)
    arrived["c1's new pod"] = wait_answer(world, "west", "east", more["east"], back)
    took_s = max(arrived.values())
    lab.record(f"the hub's API back after {API_AWAY_S:.0f} s: until each side has all that the other changed", took_s)
    failed = world.failures(back, time.time() - pulse.TIMEOUT_S)
    shrink()
    for kind in ("serviceexport", "service"):
        lab.C2.delete(kind, "late", NAMESPACE)
    assert not failed
    assert took_s <= FOLLOWED_S, arrived


def test_with_the_tunnel_down_others_leave_a_cluster_and_it_keeps_to_itself(world: World) -> None:
    names = resolved(world)
    with outage.cut(*outage.TUNNEL_OF_C2) as since:
        lab.eventually(lambda: time.time() - since >= TUNNEL_AWAY_S, within_s=TUNNEL_AWAY_S + 1, every_s=0.5)
        until = time.time() - pulse.TIMEOUT_S
        failed = world.failures(since, until)
        health = lab.HUB.get("peers.fleetboard.io", "c2", "fleetboard-default")["status"]["health"]
        assert health["reachable"] is False
        assert resolved(world) == names, "no name goes"
        kept = lab.C1.list("endpointslices", NAMESPACE, selector="multicluster.kubernetes.io/source-cluster=c2")
        assert all(one["endpoints"] for one in kept), "their slices stay"
        assert len(kept) == 4
        refused = {note.answer.partition(":")[0] for node in lab.C1.nodes() for note in failed[node, "west"][-5:]}
        assert refused == {"!ConnectionRefusedError"}, "at once, and not after a time-out"
        for side, cluster in HOME.items():
            own = {pod.name for pod in world.pods.values() if pod.cluster == cluster}
            assert answered(world, side, "both", since + ISOLATED_S).keys() <= own
    back = time.time()
    assert not failed.keys() & own_targets(), failed
    isolated = isolated_after(world, failed, since)
    gaps = world.gaps(back, within_s=BACK_S)
    lab.record("a tunnel down, the hub's API up: until clients use endpoints that they reach alone", isolated)
    lab.record("a tunnel down, the hub's API up: after it is back", worst(gaps))
    assert isolated <= ISOLATED_S, world.explain(since)
    assert worst(gaps) <= BACK_S, gaps


def test_with_api_and_tunnel_down_only_what_crosses_the_hub_stops(world: World) -> None:
    names = resolved(world)
    every = {pod.fleet_address: pod.cluster for pod in world.pods.values()}
    own = {address for address, cluster in every.items() if cluster == lab.C1}
    lab.eventually(lambda: set(resolve(world, "east", HEADLESS)[1]) == every.keys(), within_s=30)
    with outage.cut(outage.TO_HUB, outage.FROM_HUB) as since:
        # crossdns gets no event of it, but the cluster's own leader sees it; a name without local endpoints stays.
        lab.eventually(lambda: set(resolve(world, "east", HEADLESS)[1]) == own, within_s=30)
        lab.record("the hub away: until a headless name gives the local cluster's endpoints alone", time.time() - since)
        assert set(resolve(world, "east", FAR)[1]) == every.keys() - own
        lab.eventually(lambda: time.time() - since >= HUB_AWAY_S, within_s=HUB_AWAY_S + 1, every_s=0.5)
        failed = world.failures(since, time.time() - pulse.TIMEOUT_S)
        assert resolved(world) == names, "no name goes"
    back = time.time()
    gaps = world.gaps(back, within_s=BACK_S)
    lab.eventually(lambda: set(resolve(world, "east", HEADLESS)[1]) == every.keys(), within_s=30)
    assert not failed.keys() & own_targets(), failed
    assert (lab.C2.nodes()[0], "east") in failed
    isolated = isolated_after(world, failed, since)
    lab.record("the hub away: until clients use their own cluster's endpoints alone", isolated)
    lab.record(f"the hub away for {HUB_AWAY_S:.0f} s: after it is back", worst(gaps))
    assert isolated <= ISOLATED_S, world.explain(since)
    assert worst(gaps) <= BACK_S, gaps
