"""The hub's API under many members: 250 watch it, each a tenth of 500 namespaces, while 50 endpoints change a second.

Invariant: members that watch what they need and members that watch everything take turns, receive the same
writes, and each must receive every write that concerns it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import bench_figures
import bench_members
from bench_figures import Figure

from fleetboard.kube.client import Client
from fleetboard.model import names, resource

MEMBERS = 250
SLICES = 2
"""Slices in each namespace."""
ENDPOINTS = 20
RATE = 50
SECONDS = 15
ROUNDS = 2
_WRITERS = 8


def connect() -> Client:
    """Connect to the hub."""
    return Client.from_kubeconfig(os.environ["KUBECONFIG"], bench_members.CONTEXT, user_agent="bench")


def slice_name(number: int, which: int) -> str:
    """Name a slice."""
    return f"c1.{bench_members.space(number)}.web{which}"


def copied(number: int, which: int) -> dict[str, Any]:
    """Make what syncer-hub copies for the members."""
    labels = {
        names.LABEL_SERVICE_NAME: f"web{which}",
        names.LABEL_SERVICE_NAMESPACE: bench_members.space(number),
        names.LABEL_SOURCE_CLUSTER: "c1",
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_PROXY_NAME: names.PROXY_NAME,
    }
    return {
        "metadata": {"name": slice_name(number, which), "namespace": bench_members.NAMESPACE, "labels": labels},
        "addressType": "IPv4",
        "endpoints": endpoints(0),
        "ports": [{"name": "http", "port": 80}],
    }


def endpoints(first: int) -> list[dict[str, Any]]:
    """Make as many endpoints as a slice has; ``first`` is the one that changes."""
    addresses = [f"10.113.{(first + 1) % 4}.{first % 250 + 1}", *(f"10.113.3.{n + 1}" for n in range(ENDPOINTS - 1))]
    return [{"addresses": [one], "conditions": {"ready": True}, "hostname": one.replace(".", "-")} for one in addresses]


@contextlib.contextmanager
def prepared(hub: Client) -> Iterator[None]:
    """Make the slices, in a namespace that is no clusterset's."""
    with contextlib.ExitStack() as cleaning:
        cleaning.callback(hub.delete, resource.NAMESPACES, bench_members.NAMESPACE)
        hub.apply(resource.NAMESPACES, {"metadata": {"name": bench_members.NAMESPACE}}, manager="bench")
        wanted = [copied(number, which) for number in range(bench_members.NAMESPACES) for which in range(SLICES)]
        with concurrent.futures.ThreadPoolExecutor(_WRITERS) as pool:
            for _ in pool.map(lambda body: hub.apply(resource.ENDPOINT_SLICES, body, manager="bench"), wanted):
                pass
        yield


def write(seed: int) -> tuple[list[int], dict[int, float]]:
    """Change slices for some seconds, in a process of its own.

    Return whose slices they were, and the milliseconds of each write by the time that it carries.
    """
    hub, chosen = connect(), random.Random(seed)
    numbers = [chosen.randrange(bench_members.NAMESPACES) for _ in range(RATE * SECONDS)]
    begins = time.monotonic() + 0.5

    def one(turn: int) -> tuple[int, float]:
        time.sleep(max(0.0, begins + turn / RATE - time.monotonic()))
        began = time.time_ns()
        patch = {"metadata": {"annotations": {"bench/at": str(began)}}, "endpoints": endpoints(turn)}
        hub.merge_patch(
            resource.ENDPOINT_SLICES, slice_name(numbers[turn], turn % SLICES), bench_members.NAMESPACE, patch
        )
        return began, (time.time_ns() - began) / 1e6

    with concurrent.futures.ThreadPoolExecutor(_WRITERS) as pool:
        return numbers, dict(pool.map(one, range(len(numbers))))


@dataclasses.dataclass(slots=True)
class Received:
    """Milliseconds to each member, from before the write and from after it, and how many watches the hub ended."""

    ages: list[float] = dataclasses.field(default_factory=list)
    after_write: list[float] = dataclasses.field(default_factory=list)
    ended: int = 0


def one_round(hub: Client, seed: int, received: Received, *, everything: bool) -> None:
    """Let all members watch while the writer writes, and add what they receive to ``received``."""
    version = hub.list(resource.ENDPOINT_SLICES, bench_members.NAMESPACE)[1]
    members = bench_members.join(MEMBERS, everything=everything, version=version)
    try:
        spawning = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawning) as pool:
            writing = pool.submit(write, seed)
            ages = bench_members.listen(members, writing)
            numbers, took = writing.result()
    finally:
        for member in members:
            member.sock.close()
    whole = [member for member in members if not member.ended]
    concerned = sum(bench_members.space(number) in member.spaces for number in numbers for member in whole)
    missed = concerned - sum(member.received for member in whole)
    if missed:
        raise SystemExit(f"bench: {missed} of {concerned} changes did not reach a member that they concern")
    received.ages += [age for _, age in ages]
    # The event may overtake the answer to the write.
    received.after_write += [max(0.01, age - took[at]) for at, age in ages]
    received.ended += len(members) - len(whole)


def bench() -> tuple[list[Figure], object]:
    """Measure on the lab's hub; return the figures and the samples."""
    hub = connect()
    part, whole = Received(), Received()
    with prepared(hub):
        for number in range(ROUNDS):
            for everything in (False, True) if number % 2 else (True, False):
                one_round(hub, number, whole if everything else part, everything=everything)
    what = f"hub to {MEMBERS} members, {RATE} changes a second, p50 / p99"
    return [
        Figure("members of the hub", f"a tenth each; load {bench_figures.load()}", "everything each"),
        bench_figures.compare(what, part.ages, whole.ages, tail=0.99),
        bench_figures.compare("  of that after the write", part.after_write, whole.after_write, tail=0.99),
        Figure("  watches that the hub gave up", str(part.ended), str(whole.ended)),
    ], {"selective_ms": _thinned(part.ages), "everything_ms": _thinned(whole.ages)}


def _thinned(samples: list[float]) -> list[float]:
    """Keep a thousand samples, in order of size: there are tens of thousands."""
    ordered = sorted(samples)
    return [round(one, 2) for one in ordered[:: max(1, len(ordered) // 1000)]]
