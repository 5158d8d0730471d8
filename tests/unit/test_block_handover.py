"""Blocks move between nodes while leaders, nodes and the API stop at any step: no address is in two places.

Real: what each node keeps (``Holding``, ledger and file) and the leader (``Granting``). The API is a store with the
real one's rules of versions. Leaders act on copies of any age, two of them at once, and at any call of theirs the
process may end, or a node or the other leader do something first.
"""

from __future__ import annotations

import collections
import datetime
import ipaddress
import itertools
import os
import pathlib
import random

import pytest
from block_store import CLUSTER, NAMES, Ended, Store, make_leader

from cnf import blocks, granting
from cnf.attach import demand, errors, holding, journal, ledger, network, records, supply
from fleetboard.model import fleet, meta, resource
from fleetboard.model.addresses import Address, Network

IDLE_S = 120.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Node:
    """A node's memory and disk."""

    def __init__(self, name: str, folder: pathlib.Path, clock: Clock) -> None:
        self.name, self.folder, self.clock = name, folder, clock
        self.count = itertools.count()
        self.start()

    def start(self) -> None:
        self.book = ledger.Ledger(
            journal.Journal(self.folder / "journal", fsync=lambda _: None),
            node=self.name,
            clock=self.clock,
            wall=self.clock,
        )
        self.book.load()
        self.supply = supply.Supply()
        self.held = holding.Holding(
            path=self.folder / "network.json",
            node=self.name,
            book=self.book,
            known=self.supply,
            surplus=demand.Surplus(idle_s=IDLE_S, clock=self.clock),
            put_node=lambda _: None,
        )
        known = self.held.recall()
        if known is not None:
            self.supply.change(known)

    def add(self) -> None:
        draft = records.Record(
            container_id=f"{self.name}-{next(self.count)}", interface="net1", addresses=[], mac="", cookie=1, boot="b"
        )
        record, _ = self.book.reserve(draft)
        self.book.commit(record.key, index=1)

    @property
    def used(self) -> set[Address]:
        return {address for record in self.book.attached() for address in record.parse_addresses()}

    @property
    def given(self) -> tuple[Network, ...]:
        return self.supply.network.given if self.supply.network is not None else ()

    def status(self) -> fleet.FleetNodeStatus:
        known = self.supply.network
        usage = self.book.usage()
        return fleet.FleetNodeStatus(
            public_key="k",
            addresses_used=usage.used,
            blocks_wanted=demand.wanted_blocks(held=len(self.given), free=usage.free),
            blocks_returned=[str(block) for block in known.returned] if known is not None else [],
        )


class HandOver:
    """Three nodes, two leaders that believe to be the one, eight blocks."""

    def __init__(self, folder: pathlib.Path, seed: int) -> None:
        self.choose = random.Random(seed)
        self.clock = Clock()
        self.store = Store()
        self.nodes: dict[str, Node] = {}
        for name in NAMES:
            path = folder / name
            path.mkdir()
            self.nodes[name] = Node(name, path, self.clock)
            metadata = meta.ObjectMeta(name=name, creation_timestamp=name)
            self.store.create(resource.FLEET_NODES, fleet.FleetNode(metadata=metadata))
        self.leaders = [make_leader(self.store) for _ in range(2)]
        self.first: dict[str, str] = {}
        self.seen: collections.Counter[str] = collections.Counter()
        self.settle()

    def step(self) -> None:
        """Let one thing happen anywhere."""
        (action,) = self.choose.choices(
            [self.add, self.remove, self.empty, self.publish, self.see, self.restart, self.sync, self.lead],
            [10, 4, 8, 14, 14, 4, 14, 34],
        )
        action()
        self.check()

    def shown(self, name: str) -> fleet.FleetNode:
        found: fleet.FleetNode = self.store.objects[(resource.FLEET_NODES.plural, name)]
        return found

    def any_node(self) -> str:
        return self.choose.choice(NAMES)

    def add(self) -> None:
        node = self.nodes[self.any_node()]
        for _ in range(self.choose.choice([1, 20, 70])):
            try:
                node.add()
            except errors.ExhaustedError:
                self.seen["exhausted"] += 1
                return

    def remove(self) -> None:
        node = self.nodes[self.any_node()]
        for record in node.book.attached()[self.choose.choice([0, 1, 30, 60]) :]:
            node.book.release(record.key)

    def empty(self) -> None:
        """A node's pods go, time passes, and it finds blocks that have been empty for long."""
        node = self.nodes[self.any_node()]
        for record in node.book.attached()[self.choose.choice([0, 1, 30, 60]) :]:
            node.book.release(record.key)
        for seconds in (61.0, IDLE_S):
            self.clock.now += seconds
            self.seen["returned"] += node.held.give_back()

    def publish(self, name: str = "") -> None:
        name = name or self.any_node()
        self.store.write_status(name, self.nodes[name].status())

    def see(self, name: str = "") -> None:
        shown = self.shown(name or self.any_node())
        if not shown.spec.blocks:
            return
        spec = tuple(ipaddress.ip_network(block) for block in shown.spec.blocks)
        returned = tuple(ipaddress.ip_network(block) for block in shown.status.blocks_returned)
        self.nodes[shown.metadata.name].held.change(
            network.NodeNetwork(spec[0].network_address, spec, (ipaddress.ip_network("10.112.0.0/12"),), 1360, returned)
        )

    def restart(self) -> None:
        node = self.nodes[self.any_node()]
        node.book.close()
        if self.choose.random() < 0.3:
            (node.folder / "network.json").unlink(missing_ok=True)
        node.start()

    def sync(self, number: int | None = None, what: str = "") -> None:
        """A leader's copies catch up, both or one."""
        _, view = self.leaders[self.choose.randrange(2) if number is None else number]
        what = what or self.choose.choice(["nodes", "claims", "both"])
        view.catch_up(self.store, nodes=what != "claims", claims=what != "nodes")

    def lead(self) -> None:
        """One round of a leader, and at some call of its something else, or its end."""
        number, meanwhile = self.choose.randrange(2), self.choose.choice(["end", "leader", "node", "all"])

        def interfere() -> None:
            if meanwhile == "end":
                raise Ended
            name = self.any_node()
            if meanwhile in ("node", "all"):
                self.see(name)
                self.publish(name)
            if meanwhile in ("leader", "all"):
                self.sync(1 - number)
                self.reconcile(1 - number)

        self.store.before_call = {self.store.calls + self.choose.randint(1, 5): interfere}
        self.reconcile(number)
        self.store.before_call.clear()

    def reconcile(self, number: int) -> None:
        before = {block for name in NAMES for block in self.shown(name).spec.blocks}
        try:
            self.seen["conflict"] += self.leaders[number][0].reconcile("all") == granting.SOON_S
        except Ended:
            self.seen["end"] += 1
            self.leaders[number] = make_leader(self.store)
        self.seen["taken"] += len(before - {block for name in NAMES for block in self.shown(name).spec.blocks})

    def settle(self) -> None:
        """Everybody hears of everything, one leader leads: as it is all day."""
        for _ in range(30):
            before = self.store.version
            for name in NAMES:
                self.see(name)
                self.publish(name)
            self.sync(0, "both")
            self.reconcile(0)
            if self.store.version == before:
                return
        pytest.fail("leader and nodes never come to rest")

    def check(self) -> None:
        for one, other in itertools.combinations(self.nodes.values(), 2):
            assert not set(one.given) & set(other.given), "two nodes give addresses of one block"
            assert not one.used & other.used
        for name, node in self.nodes.items():
            shown = self.shown(name).spec.blocks
            own = [ipaddress.ip_network(block) for block in shown]
            lost = [address for address in node.used if not any(address in block for block in own)]
            assert not lost, f"a block in use was taken from {name}"
            assert not shown or self.first.setdefault(name, shown[0]) == shown[0], "a node's first block was taken"
            free_to_take = set(shown) & set(self.shown(name).status.blocks_returned)
            assert not free_to_take & set(map(str, node.given)), f"{name} gives of a block that may be taken"
        shown_by = [block for name in NAMES for block in self.shown(name).spec.blocks]
        assert len(set(shown_by)) == len(shown_by), "two nodes show one block"
        offered = {claim.spec.cidr for claim in self.store.all(resource.CLAIMS) if claim.spec.returned}
        assert not offered & set(shown_by), "a block that a node shows is on offer"

    def check_rest(self) -> None:
        """At rest every block is either free or shown by its owner, and whoever wants one has it or there is none."""
        claims: list[fleet.Claim] = self.store.all(resource.CLAIMS)
        owned = collections.Counter((c.spec.owner, c.spec.cidr) for c in claims if not c.spec.released)
        shown = [(name, block) for name in NAMES for block in self.shown(name).spec.blocks]
        assert owned == collections.Counter(shown)
        assert len({block for _, block in shown}) == len(shown)
        wanting = {name for name in NAMES if self.nodes[name].status().blocks_wanted > len(self.nodes[name].given)}
        cluster, now = [ipaddress.ip_network(CLUSTER)], datetime.datetime.now(datetime.UTC)
        decision = blocks.plan_grants(self.store.all(resource.FLEET_NODES), claims, cluster, now=now)
        assert set(decision.refused) == wanting
        assert not decision.grants


def test_no_address_is_in_two_places_whoever_stops_where(tmp_path: pathlib.Path) -> None:
    """FLEETBOARD_SEED runs one history again."""
    seed = int(os.environ.get("FLEETBOARD_SEED", "0"))
    seen: collections.Counter[str] = collections.Counter()
    for number in [seed] if seed else [random.randrange(1, 1 << 32) for _ in range(6)]:
        (tmp_path / str(number)).mkdir()
        seen += play(number, tmp_path / str(number))
    assert min(seen[event] for event in ("returned", "taken", "conflict", "end")) > 0, seen


def play(seed: int, folder: pathlib.Path) -> collections.Counter[str]:
    hand_over = HandOver(folder, seed)
    step = 0
    try:
        for step in range(1, 601):
            hand_over.step()
            if step % 60 == 0:
                hand_over.settle()
                hand_over.check()
                hand_over.check_rest()
    except BaseException as err:
        err.add_note(f"step {step}; the same again: FLEETBOARD_SEED={seed}")
        raise
    finally:
        for node in hand_over.nodes.values():
            node.book.close()
    return hand_over.seen
