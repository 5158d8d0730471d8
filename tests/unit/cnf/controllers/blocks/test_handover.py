"""Blocks move between nodes while leaders, nodes and the API stop at any step: no address is in two places.

Real are what each node holds (``NodeBlocks``, ledger and file) and reports (``StatusController``), and the leader
(``BlockController``). The API is a store with the real one's rules of versions. Leaders act on copies of any age, two
of them at once. At any call the process may end, or a node or the other leader does something first. A node's write may
arrive after the node gave up on it; FleetNodes are deleted, disks are full, and days pass.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import ipaddress
import itertools
import os
import pathlib
import random
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
from block_store import CLUSTER, NAMES, Ended, Store, make_leader
from fake_clock import FakeClock

from cnf.attach import errors, ipam, journal, ledger, records, service
from cnf.attach.node_network import blocks as node_network_blocks
from cnf.attach.node_network import demand, network, supply
from cnf.controllers import status
from cnf.controllers.blocks import controller, plan
from fleetboard.kube import client as kube_client
from fleetboard.kube import errors as kube_errors
from fleetboard.model import addresses, fleet, meta, resource
from fleetboard.model.addresses import Address, Network

IDLE_S = 120.0


class Journal(journal.Journal):
    """One whose disk may be full."""

    full = False

    def rewrite(self, entries: Iterable[records.Entry]) -> None:
        self._refuse()
        super().rewrite(entries)

    def append(self, entry: records.Entry) -> int:
        self._refuse()
        return super().append(entry)

    def _refuse(self) -> None:
        if self.full:
            self.healthy = False
            raise errors.JournalError("No space left on device")


class Outbox:
    """A node's way to the API, on which writes may be held up."""

    def __init__(self, store: Store) -> None:
        self.store, self.stalled = store, False
        self.late: list[Callable[[], Any]] = []

    def apply(self, kind: resource.Resource[Any], body: Any, **options: Any) -> Any:
        if not self.stalled or not options.get("subresource"):
            return self.store.apply(kind, body, **options)
        self.late.append(lambda: self.store.apply(kind, body, **options))
        raise kube_errors.UnreachableError("no answer")


class Node:
    """A node's memory and disk, and what it says."""

    waiting = 0

    def __init__(self, name: str, folder: pathlib.Path, clock: FakeClock, store: Store) -> None:
        self.name, self.folder, self.clock = name, folder, clock
        self.outbox = Outbox(store)
        self.count = itertools.count()
        self.start()

    def start(self, *, full: bool = False) -> None:
        self.journal = Journal(self.folder / "journal", fsync=lambda _: None)
        self.journal.full = full
        self.ledger = ledger.Ledger(
            self.journal,
            node=self.name,
            clock=self.clock,
            wall=self.clock,
        )
        self.ledger.load()
        self.supply = supply.Supply()
        self.node_blocks = node_network_blocks.NodeBlocks(
            path=self.folder / "network.json",
            node=self.name,
            ledger=self.ledger,
            supply=self.supply,
            surplus=demand.Surplus(idle_s=IDLE_S, clock=self.clock),
            ensure_node_addresses=lambda _: None,
        )
        known = self.node_blocks.recall()
        if known is not None:
            self.supply.replace(known)
        self.publishing = status.StatusController(
            cast("kube_client.Client", self.outbox),
            namespace="fleetboard-system",
            node=self.name,
            version="1",
            report=self.report,
            attachments=list,
            fleet_node=lambda: self.outbox.store.objects.get((resource.FLEET_NODES.plural, self.name)),
            clock=self.clock,
        )

    def set_disk(self, *, journal: bool, file: bool) -> None:
        """Say what can't be written from now on."""
        self.journal.full = journal
        draft = self.folder / "network.new"
        if file:
            draft.mkdir(exist_ok=True)
        elif draft.is_dir():
            draft.rmdir()

    def add(self) -> None:
        draft = records.Record(
            container_id=f"{self.name}-{next(self.count)}", interface="net1", addresses=[], mac="", cookie=1, boot="b"
        )
        record, _ = self.ledger.reserve(draft)
        try:
            self.ledger.commit(record.key, index=1)
        except errors.JournalError:
            self.ledger.release(record.key, quarantine=False)
            raise

    @property
    def used(self) -> set[Address]:
        return {address for record in self.ledger.attached() for address in record.parse_addresses()}

    @property
    def given(self) -> tuple[Network, ...]:
        return self.supply.network.active_blocks if self.supply.network is not None else ()

    def usage(self) -> ipam.Usage:
        return self.ledger.usage()

    def network(self) -> network.NodeNetwork | None:
        return self.supply.network

    def held_blocks(self) -> tuple[Network, ...]:
        return demand.held_blocks(self.supply.network, self.ledger.held_addresses())

    def report(self) -> status.Report:
        usage, wanted, returned, held = status.read_addresses(cast("service.CniService", self))
        return status.Report("k", "", 1360, usage.used, usage.free, wanted, returned, held, None)


class HandOver:
    """Three nodes, two leaders that believe to be the one, eight blocks."""

    def __init__(self, folder: pathlib.Path, seed: int) -> None:
        self.choose = random.Random(seed)
        self.clock = FakeClock(1_000_000)
        self.store = Store()
        self.store.clock = self.clock
        self.nodes: dict[str, Node] = {}
        for name in NAMES:
            path = folder / name
            path.mkdir()
            self.nodes[name] = Node(name, path, self.clock, self.store)
        self.give_first_blocks()
        self.leaders = [make_leader(self.store) for _ in range(2)]
        self.first: dict[str, str] = {}
        self.created_again: set[str] = set()
        self.seen: collections.Counter[str] = collections.Counter()
        self.settle()

    def give_first_blocks(self) -> None:
        """Let the first blocks be any, as in a cluster that has seen nodes come and go."""
        every = list(addresses.node_blocks([ipaddress.ip_network(CLUSTER)]))
        for name, block in zip(NAMES, self.choose.sample(every, len(NAMES)), strict=True):
            node = fleet.FleetNode(
                metadata=meta.ObjectMeta(name=name, creation_timestamp=name),
                spec=fleet.FleetNodeSpec(blocks=[str(block)]),
            )
            claim = fleet.Claim(
                metadata=meta.ObjectMeta(name=addresses.claim_name(block)),
                spec=fleet.ClaimSpec(cidr=str(block), purpose=plan.PURPOSE, owner=name),
            )
            self.store.create(resource.FLEET_NODES, node)
            self.store.create(resource.CLAIMS, claim)

    def step(self) -> None:
        """Let one thing happen anywhere."""
        (action,) = self.choose.choices(
            [
                *(self.add, self.remove, self.empty, self.publish, self.see, self.restart, self.sync, self.lead),
                *(self.stall, self.arrive, self.delete, self.forget, self.fill_disk, self.pass_a_day),
            ],
            [10, 4, 8, 14, 14, 6, 14, 34, 8, 8, 2, 2, 4, 1],
        )
        action()
        self.check()

    def shown(self, name: str) -> fleet.FleetNode:
        found: fleet.FleetNode | None = self.store.objects.get((resource.FLEET_NODES.plural, name))
        return found or fleet.FleetNode()

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
            except errors.JournalError:
                self.seen["full"] += 1
                return

    def remove(self) -> None:
        node = self.nodes[self.any_node()]
        for record in node.ledger.attached()[self.choose.choice([0, 1, 30, 60]) :]:
            node.ledger.release(record.key)

    def empty(self, name: str = "") -> None:
        """A node's pods go, time passes, and it finds blocks that have been empty for long."""
        node = self.nodes[name or self.any_node()]
        for record in node.ledger.attached()[self.choose.choice([0, 1, 30, 60]) :]:
            node.ledger.release(record.key)
        for seconds in (61.0, IDLE_S):
            self.clock.now += seconds
            self.seen["returned"] += node.node_blocks.return_empty_blocks()

    def publish(self, name: str = "") -> None:
        self.nodes[name or self.any_node()].publishing.reconcile_node("all")

    def stall(self) -> None:
        """A node writes, and receives nothing."""
        node = self.nodes[self.any_node()]
        node.outbox.stalled = True
        with contextlib.suppress(kube_errors.UnreachableError):
            node.publishing.reconcile_node("all")
        node.outbox.stalled = False

    def arrive(self) -> None:
        """What a node wrote some time ago comes to the API."""
        late = self.nodes[self.any_node()].outbox.late
        if late:
            try:
                late.pop(self.choose.randrange(len(late)))()
            except kube_errors.ConflictError:
                self.seen["late"] += 1

    def delete(self) -> None:
        """Somebody deletes a FleetNode that its node remembers."""
        name = self.any_node()
        if self.nodes[name].supply.network is not None:
            self.store.delete(resource.FLEET_NODES, name)
            self.created_again.add(name)

    def forget(self) -> None:
        """The cluster loses a node for a moment, and a leader sees that."""
        name, number = self.any_node(), self.choose.randrange(2)
        if self.nodes[name].supply.network is not None:
            self.store.present.discard(name)
            self.leaders[number] = make_leader(self.store)
            self.reconcile(number)
            self.store.present.add(name)
            self.created_again.add(name)

    def fill_disk(self) -> None:
        """A node can't write, its pods go, and perhaps its process ends before it can."""
        journal, file = self.choose.choice([(True, False), (True, False), (False, True)])
        name = self.any_node()
        self.nodes[name].set_disk(journal=journal, file=file)
        self.empty(name)
        if self.choose.random() < 0.5:
            self.publish(name)
            self.sync(0, "both")
            self.reconcile(0)
            self.see(name)
            self.restart(name)

    def pass_a_day(self) -> None:
        self.settle()
        self.clock.now += 25 * 3600

    def see(self, name: str = "") -> None:
        shown = self.shown(name or self.any_node())
        if not shown.spec.blocks:
            return
        spec = tuple(ipaddress.ip_network(block) for block in shown.spec.blocks)
        returned = tuple(ipaddress.ip_network(block) for block in shown.status.blocks_returned)
        try:
            self.nodes[shown.metadata.name].node_blocks.change(
                network.NodeNetwork(
                    spec[0].network_address, spec, (ipaddress.ip_network("10.112.0.0/12"),), 1360, returned
                )
            )
        except errors.JournalError:
            self.seen["full"] += 1

    def restart(self, name: str = "") -> None:
        node = self.nodes[name or self.any_node()]
        file = node.folder / "network.json"
        # A first block that neither API nor disk remember is another one afterwards.
        if self.shown(node.name).spec.blocks:
            if self.choose.random() < 0.3:
                file.unlink(missing_ok=True)
        elif not file.exists():
            return
        node.ledger.close()
        node.start(full=node.journal.full)

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
            self.seen["conflict"] += self.leaders[number][0].reconcile("all") == controller.SOON_S
        except Ended:
            self.seen["end"] += 1
            self.leaders[number] = make_leader(self.store)
        self.seen["taken"] += len(before - {block for name in NAMES for block in self.shown(name).spec.blocks})

    def settle(self) -> None:
        """Every event arrives, disks work, one leader leads: an ordinary day."""
        for node in self.nodes.values():
            node.set_disk(journal=False, file=False)
            node.ledger.ensure_writable()
        for _ in range(30):
            before = self.store.version
            for name in NAMES:
                self.see(name)
                self.publish(name)
            self.sync(0, "both")
            self.reconcile(0)
            if self.store.version == before:
                self.created_again.clear()
                return
        pytest.fail("leader and nodes never settle")

    def check(self) -> None:
        for one, other in itertools.combinations(self.nodes.values(), 2):
            assert not set(one.given) & set(other.given), "two nodes give addresses of one block"
            assert not one.used & other.used
        for name, node in self.nodes.items():
            shown = self.shown(name).spec.blocks
            own = [ipaddress.ip_network(block) for block in shown]
            lost = [address for address in node.used if not any(address in block for block in own)]
            assert not lost or name in self.created_again, f"a block in use was taken from {name}"
            others = [
                ipaddress.ip_network(block) for one in NAMES if one != name for block in self.shown(one).spec.blocks
            ]
            assert not [address for address in lost if any(address in block for block in others)], "given to another"
            assert not shown or self.first.setdefault(name, shown[0]) == shown[0], "a node's first block was taken"
            free_to_take = set(shown) & set(self.shown(name).status.blocks_returned)
            assert not free_to_take & set(map(str, node.given)), f"{name} gives of a block that may be taken"
        shown_by = [block for name in NAMES for block in self.shown(name).spec.blocks]
        assert len(set(shown_by)) == len(shown_by), "two nodes show one block"
        offered = {claim.spec.cidr for claim in self.store.all(resource.CLAIMS) if claim.spec.returned}
        assert not offered & set(shown_by), "a block that a node shows is on offer"

    def check_settled(self) -> None:
        """Every block is free or shown by its owner, and every node that wants one has it unless none is left."""
        claims: list[fleet.Claim] = self.store.all(resource.CLAIMS)
        owned = collections.Counter((c.spec.owner, c.spec.cidr) for c in claims if not c.spec.released)
        shown = [(name, block) for name in NAMES for block in self.shown(name).spec.blocks]
        assert owned == collections.Counter(shown)
        assert len({block for _, block in shown}) == len(shown)
        wanting = {name for name in NAMES if self.nodes[name].report().wanted > len(self.nodes[name].given)}
        cluster, now = [ipaddress.ip_network(CLUSTER)], datetime.datetime.fromtimestamp(self.clock(), datetime.UTC)
        decision = plan.plan_grants(self.store.all(resource.FLEET_NODES), claims, cluster, now=now)
        assert set(decision.refused) == wanting
        assert not decision.grants


def test_no_address_is_in_two_places_whatever_stops_where(tmp_path: pathlib.Path) -> None:
    """FLEETBOARD_SEED runs one history again."""
    seed = int(os.environ.get("FLEETBOARD_SEED", "0"))
    seen: collections.Counter[str] = collections.Counter()
    for number in [seed] if seed else [random.randrange(1, 1 << 32) for _ in range(6)]:
        (tmp_path / str(number)).mkdir()
        seen += play(number, tmp_path / str(number))
    assert min(seen[event] for event in ("returned", "taken", "conflict", "end", "late", "full")) > 0, seen


def play(seed: int, folder: pathlib.Path) -> collections.Counter[str]:
    hand_over = HandOver(folder, seed)
    step = 0
    try:
        for step in range(1, 601):
            hand_over.step()
            if step % 60 == 0:
                hand_over.settle()
                hand_over.check()
                hand_over.check_settled()
    except BaseException as err:
        err.add_note(f"step {step}; the same again: FLEETBOARD_SEED={seed}")
        raise
    finally:
        for node in hand_over.nodes.values():
            node.ledger.close()
    return hand_over.seen
