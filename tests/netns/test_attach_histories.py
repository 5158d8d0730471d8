"""Ten thousand random steps on the real kernel: no address twice, none leaked, none lost.

ADD, DEL, CHECK, pods that die without a DEL, DELs that wait in the spool, blocks that come and go; and the process ends
at any write to the journal and before or after any message to the kernel, is replaced with its namespace, or the
machine boots. Time is a number, so a minute's quarantine takes no time.

    FLEETBOARD_SEED=… FLEETBOARD_STEPS=…    the same history again, or a longer one
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import ipaddress
import itertools
import json
import os
import pathlib
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from quick_nets import QuickNet, QuickNets

from cnf.attach import frames, identity, journal, spool
from cnf.attach.node_network.network import NodeNetwork
from cnf.attach.service import CniService
from cnf.attach.settings import CniHooks, CniSettings
from cnf.netlink import connection, links
from cnf.netlink.namespace import NetworkNamespace

pytestmark = pytest.mark.netns

STEPS = int(os.environ.get("FLEETBOARD_STEPS", "10000"))
SEED = int(os.environ.get("FLEETBOARD_SEED", "0"))
BLOCKS = tuple(ipaddress.ip_network(block) for block in ("10.112.4.0/27", "10.112.4.32/28", "10.112.4.48/28"))
FLEET = (ipaddress.ip_network("10.112.0.0/12"),)
QUARANTINE_S = 60.0


class Ended(BaseException):
    """The process ends here: nothing after this happens, not even an undoing."""


class Fate:
    """Ends the process at a chosen step towards disk or kernel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, choose: random.Random) -> None:
        self._lock = threading.Lock()
        self._left: int | None = None
        self._over = False
        fate = self
        write, sync_folder, open_socket = journal.write_all, journal.sync_folder, connection.open_socket

        class Socket(socket.socket):
            def send(self, messages: Any, flags: int = 0, /) -> int:
                fate.step()
                sent = super().send(messages, flags)
                fate.step()
                return sent

        def writing(file: int, content: bytes) -> None:
            try:
                self.step()
            except Ended:
                if not self.was_over:
                    write(file, content[: choose.randrange(len(content) + 1)])  # torn
                raise
            write(file, content)
            self.step()

        def syncing(path: pathlib.Path) -> None:
            self.step()
            sync_folder(path)

        monkeypatch.setattr(connection, "open_socket", lambda: Socket(fileno=open_socket().detach()))
        monkeypatch.setattr(journal, "write_all", writing)
        monkeypatch.setattr(journal, "sync_folder", syncing)
        self.was_over = False

    def arm(self, steps: int | None) -> None:
        with self._lock:
            self._left, self._over, self.was_over = steps, False, False

    def step(self) -> None:
        with self._lock:
            self.was_over = self._over
            if self._left is not None:
                self._left -= 1
                self._over = self._over or self._left < 0
            if self._over:
                raise Ended


@dataclasses.dataclass
class Pod:
    """A container of the runtime's; ``result`` is what ADD answered."""

    container: str
    net: QuickNet
    result: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def address(self) -> str:
        return str(self.result["ips"][0]["address"]).partition("/")[0]


class Node:
    """The runtime, the kernel and the cluster, and the process under test."""

    def __init__(
        self,
        folder: pathlib.Path,
        nets: QuickNets,
        fate: Fate,
        choose: random.Random,
        *,
        choose_end: Callable[[], int | None] | None = None,
    ) -> None:
        self.choose, self.fate = choose, fate
        self.folder, self.nets = folder, nets
        (folder / "del").mkdir()
        self.number = itertools.count()
        self.now = 1_000_000.0
        self.boot = 1
        self.living: dict[str, Pod] = {}
        self.owed: list[Pod] = []
        """Pods whose DEL the runtime tries until it gets an answer."""
        self.spare: list[QuickNet] = []
        self.blocks = BLOCKS[:1]
        self.choose_end = choose_end or self.choose_any_end
        """Returns the step of its start at which the next process ends, or None."""
        self.seen: collections.Counter[str] = collections.Counter()
        self.node_netns = self.make_net()
        self.begin()

    def clock(self) -> float:
        return self.now

    def make_net(self) -> QuickNet:
        return self.nets.make(f"n{next(self.number)}")

    # The process.

    def begin(self) -> None:
        """Start the process, and again when it ends while it starts."""
        while True:
            self.fate.arm(self.choose_end())
            self.handle = NetworkNamespace.open(self.node_netns.path)
            self.cni = CniService(
                CniSettings(
                    state_dir=self.folder / "state",
                    netns_dir=self.nets.folder,
                    node="n",
                    address_timeout_s=0,
                    idle_s=120,
                    boot_id=f"boot {self.boot}",
                ),
                node_netns=self.handle,
                hooks=CniHooks(on_change=lambda: None),
                clock=self.clock,
                wall=self.clock,
            )
            try:
                self.cni.restore()
                self.cni.set_network(self.network())
                spool.Spool(self.folder / "del", self.cni.calls.call).replay()
            except Ended:
                self.seen["ended at start"] += 1
                self.finish()
                continue
            self.fate.arm(None)
            return

    def choose_any_end(self) -> int | None:
        steps = self.choose.randrange(self.choose.choice([20, 80, 300]))
        return steps if self.choose.random() < 0.25 else None

    def finish(self) -> None:
        """Close what an ended process holds; its threads do nothing more."""
        self.cni.close()
        self.handle.close()
        self.fate.arm(None)

    def network(self) -> NodeNetwork:
        return NodeNetwork(BLOCKS[0].network_address, self.blocks, FLEET, 1360)

    def call(self, verb: str, pod: Pod, *, with_net: bool = True, **config: Any) -> frames.Response:
        namespace = NetworkNamespace.open(pod.net.path) if with_net and pod.net.path.exists() else None
        try:
            return self.cni.calls.call(frames.Request(environment(verb, pod), render(config), namespace))
        finally:
            if namespace is not None:
                namespace.close()

    # Actions.

    def step(self) -> None:
        (action, weight) = self.choose.choices(ACTIONS, [weight for _, weight in ACTIONS])[0]
        assert weight
        self.now += self.choose.random() * 3
        if self.choose.random() < 0.12:
            self.fate.arm(self.choose.randrange(30))
        try:
            action(self)
        except Ended:
            self.seen["ended"] += 1
            self.finish()
            if self.choose.random() < 0.1:
                self.move()
            self.begin()
            self.check_all()
        self.fate.arm(None)
        for pod in self.owed:
            response = self.call("DEL", pod, with_net=self.choose.random() < 0.7)
            assert response.code == 0, response.stdout
            self.put_away(pod)
        self.owed = []
        self.check_ledger()

    def put_away(self, pod: Pod) -> None:
        if not pod.net.path.exists():
            return
        deadline = time.monotonic() + 60
        while self.has_interface(pod.net):  # of a pair whose other end is in a namespace that the kernel is ending
            assert time.monotonic() < deadline, f"{pod.container} kept its interface"
            time.sleep(0.002)
        self.spare.append(pod.net)

    def add(self) -> None:
        pods = [self.make_pod() for _ in range(self.choose.choice([1, 1, 1, 4]))]
        self.owed += pods
        for pod, response in zip(pods, self.together(lambda pod: self.call("ADD", pod), pods), strict=True):
            if response.code:
                refusal = json.loads(response.stdout)
                assert refusal["code"] == 11, refusal
                usage = self.cni.usage()
                assert not usage.free, refusal
                self.seen["exhausted"] += 1
                continue
            pod.result = json.loads(response.stdout)
            self.owed.remove(pod)
            self.living[pod.container] = pod
            self.seen["added"] += 1

    def make_pod(self) -> Pod:
        net = self.spare.pop() if self.spare and self.choose.random() < 0.9 else self.make_net()
        return Pod(f"c{next(self.number)}", net)

    def together(self, work: Callable[[Pod], frames.Response], pods: list[Pod]) -> list[frames.Response]:
        if len(pods) == 1:
            return [work(pods[0])]
        with concurrent.futures.ThreadPoolExecutor(len(pods)) as callers:
            return list(callers.map(work, pods))

    def pick(self) -> Pod | None:
        return self.living[self.choose.choice(sorted(self.living))] if self.living else None

    def delete(self) -> None:
        chosen = self.choose.sample(sorted(self.living), min(len(self.living), self.choose.choice([1, 1, 4])))
        gone = [self.living.pop(container) for container in chosen]
        self.owed += gone
        with_net = self.choose.random() < 0.7
        for pod, response in zip(
            gone, self.together(lambda pod: self.call("DEL", pod, with_net=with_net), gone), strict=True
        ):
            assert response.code == 0, response.stdout
            self.owed.remove(pod)
            self.put_away(pod)
            self.seen["deleted"] += 1

    def check_one(self) -> None:
        if (pod := self.pick()) is not None:
            response = self.call("CHECK", pod, prevResult=pod.result)
            assert response.code == 0, response.stdout

    def die(self) -> None:
        """A pod's namespace ends without a DEL."""
        if (pod := self.pick()) is not None:
            del self.living[pod.container]
            pod.net.end()
            self.seen["died"] += 1

    def leave_in_spool(self) -> None:
        """The runtime's DEL finds cnf away, and the namespace is gone by the time it is back, or not."""
        if (pod := self.pick()) is None:
            return
        del self.living[pod.container]
        waiting = self.folder / "del" / pod.container
        waiting.write_bytes(frames.render_request(environment("DEL", pod), render({})))
        os.utime(waiting, (self.now, self.now))
        if self.choose.random() < 0.5:
            pod.net.end()
        else:
            self.owed.append(pod)  # the test's own: to see that nothing is left
        self.restart()
        self.seen["spooled"] += 1

    def wait(self) -> None:
        self.now += self.choose.random() * 40

    def collect(self) -> None:
        self.cni.collect()

    def lead(self) -> None:
        """The leader allocates a block to a full node, and takes those that it returned."""
        known = self.cni.network()
        assert known is not None
        kept = tuple(block for block in self.blocks if block not in known.returned)
        self.seen["taken"] += len(self.blocks) - len(kept)
        self.blocks = kept
        if self.cni.usage().free < 4:
            self.blocks = (*kept, *[block for block in BLOCKS if block not in kept][:1])
            self.seen["given"] += 1
        self.cni.set_network(self.network())

    def drain(self) -> None:
        """A busy hour is over, and its blocks have been empty for long."""
        self.owed += [self.living.pop(container) for container in sorted(self.living)[2:]]
        for pod in self.owed:
            assert self.call("DEL", pod).code == 0
        for seconds in (QUARANTINE_S, 121):
            self.now += seconds
            self.cni.collect()
        self.lead()

    def restart(self) -> None:
        self.finish()
        self.begin()
        self.check_all()
        self.seen["restarted"] += 1

    def move(self) -> None:
        """The cnf pod is replaced: it has a new namespace, and the old one ends now or later."""
        old, self.node_netns = self.node_netns, self.make_net()
        if self.choose.random() < 0.5:
            old.end()
        else:
            self.spare.append(old)
            self.begin()
            self.check_all()
            self.finish()
            self.spare.remove(old)
            old.end()

    def replace(self) -> None:
        self.finish()
        self.move()
        self.begin()
        self.check_all()
        self.seen["replaced"] += 1

    def boot_machine(self) -> None:
        """All namespaces end, and what had not reached the disk is lost."""
        self.finish()
        self.boot += 1
        for net in [self.node_netns, *self.spare, *(pod.net for pod in self.living.values())]:
            net.end()
        self.spare, self.living, self.node_netns = [], {}, self.make_net()
        path = self.folder / "state" / "journal"
        whole = path.read_bytes()
        path.write_bytes(whole[: self.choose.randrange(len(whole) + 1)])
        self.begin()
        assert self.cni.usage().used == 0
        self.seen["booted"] += 1

    # Checks.

    def check_ledger(self) -> None:
        held = collections.Counter(a for attachment in self.cni.attachments() for a in attachment.addresses)
        assert not [address for address, count in held.items() if count > 1], "an address is held twice"
        mine = {pod.address for pod in self.living.values()}
        assert len(mine) == len(self.living), "two pods were given one address"
        assert mine <= set(held), "a pod's address is lost"

    def check_all(self) -> None:
        """The ledger, cnf's namespace and every pod's say the same."""
        self.check_ledger()
        with self.handle.connect() as kernel:
            standing = {link.name: link for link in links.read(kernel, kind="veth")}
        for pod in self.living.values():
            name = identity.veth_name(pod.container, "net1")
            assert name in standing, f"{pod.container} lost its interface"
            assert f" {pod.address} " in f"{standing[name].alias} ", "the kernel has another address"
            with NetworkNamespace.open(pod.net.path) as inside:
                assert inside.holds(ipaddress.ip_address(pod.address)), f"{pod.container} lost {pod.address}"
        for net in self.spare:
            if net is not self.node_netns:
                assert net in [pod.net for pod in self.owed] or not self.has_interface(net)

    def has_interface(self, net: QuickNet) -> bool:
        with NetworkNamespace.open(net.path) as opened, opened.connect() as inside:
            return links.find(inside, "net1") is not None

    def settle(self) -> None:
        """After two sweeps and the quarantine only living pods hold anything."""
        self.cni.set_network(self.network())
        deadline = time.monotonic() + 60
        while self.cni.usage().used != len(self.living) or len(self.standing()) != len(self.living):
            assert time.monotonic() < deadline, f"leaked: {self.cni.attachments()} {sorted(self.living)}"
            self.now += 2
            self.cni.collect()
        self.now += QUARANTINE_S
        known, usage = self.cni.network(), self.cni.usage()
        assert known is not None
        assert (usage.used, usage.quarantined) == (len(self.living), 0)
        assert usage.free == sum(block.num_addresses for block in known.active_blocks) - 1 - usage.used, (
            "addresses are lost"
        )
        self.check_all()

    def standing(self) -> list[str]:
        with self.handle.connect() as kernel:
            return [link.name for link in links.read(kernel, kind="veth")]


ACTIONS: list[tuple[Callable[[Node], None], float]] = [
    (Node.add, 30),
    (lambda node: node.delete() if node.living else None, 22),
    (Node.check_one, 10),
    (Node.die, 3),
    (Node.leave_in_spool, 1),
    (Node.wait, 12),
    (Node.collect, 8),
    (Node.lead, 8),
    (Node.drain, 0.7),
    (Node.restart, 1.5),
    (Node.replace, 0.8),
    (Node.boot_machine, 0.3),
]


def environment(verb: str, pod: Pod) -> dict[str, str]:
    name = f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod.container};K8S_POD_UID=u-{pod.container}"
    return {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": pod.container,
        "CNI_IFNAME": "net1",
        "CNI_NETNS": str(pod.net.path),
        "CNI_ARGS": f"IgnoreUnknown=1;{name}",
    }


def render(config: dict[str, Any]) -> bytes:
    return json.dumps({"cniVersion": "1.0.0", "name": "fleetboard", "type": "fleetboard", **config}).encode()


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder in memory: a crash of the process is tried here, not the disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield pathlib.Path(path)


@pytest.mark.timeout(900)  # 40 s of them on a quiet machine: each step hands over between threads
def test_ten_thousand_steps_lose_nothing_and_give_nothing_twice(
    folder: pathlib.Path, quick: QuickNets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = SEED or random.randrange(1, 1 << 32)
    choose = random.Random(seed)
    step, started = 0, time.monotonic()
    node = Node(folder, quick, Fate(monkeypatch, choose), choose)
    try:
        for step in range(1, STEPS + 1):
            node.step()
            if step % 250 == 0:
                node.settle()
    except BaseException as err:
        err.add_note(f"step {step}; the same history again: FLEETBOARD_SEED={seed} FLEETBOARD_STEPS={STEPS}")
        raise
    finally:
        node.finish()
    with capsys.disabled():
        print(f"\n{STEPS} steps in {time.monotonic() - started:.0f} s, seed {seed}: {dict(node.seen)}")
    assert STEPS < 10_000 or min(node.seen[event] for event in EVENTS) >= 1


@pytest.fixture
def node(folder: pathlib.Path, quick: QuickNets, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node whose process ends only when the test says."""
    choose = random.Random(1)
    made = Node(folder, quick, Fate(monkeypatch, choose), choose, choose_end=lambda: None)
    yield made
    made.finish()


def living(node: Node, count: int) -> None:
    for _ in range(count):
        pod = node.make_pod()
        response = node.call("ADD", pod)
        assert response.code == 0, response.stdout
        pod.result = json.loads(response.stdout)
        node.living[pod.container] = pod


def ends(node: Node, steps: int, work: Callable[[], object]) -> bool:
    """End the process after ``steps`` steps of ``work`` and start the next; return whether it got that far."""
    node.fate.arm(steps)
    try:
        work()
    except Ended:
        node.finish()
        node.begin()
        return True
    finally:
        node.fate.arm(None)
    return False


def test_an_add_that_ends_at_any_step_leaves_all_or_nothing(node: Node) -> None:
    living(node, 2)
    for steps in itertools.count():
        pod = node.make_pod()
        if not ends(node, steps, lambda pod=pod: node.call("ADD", pod)):  # type: ignore[misc]
            break
        attached = pod.container in {one.pod_name for one in node.cni.attachments()}
        assert node.has_interface(pod.net) is attached
        assert node.cni.usage().used == len(node.standing()) == 2 + attached
        assert node.call("DEL", pod).code == 0
        assert not node.has_interface(pod.net)
        node.check_all()
    assert steps >= 10, "before and after two writes and three messages"


def test_a_del_that_ends_at_any_step_is_finished_by_the_next(node: Node) -> None:
    living(node, 2)
    for steps in itertools.count():
        living(node, 1)
        pod = node.living.popitem()[1]
        over = not ends(node, steps, lambda pod=pod: node.call("DEL", pod))  # type: ignore[misc]
        if not over:
            assert node.call("DEL", pod).code == 0
        assert not node.has_interface(pod.net)
        assert node.cni.usage().used == len(node.standing()) == 2
        node.check_all()
        if over:
            break
    assert steps > 4


def test_a_replaced_pod_that_ends_at_any_step_is_replaced_by_the_next(node: Node) -> None:
    living(node, 3)
    for steps in itertools.count():
        node.finish()
        old, node.node_netns = node.node_netns, node.make_net()
        plan = iter([steps])
        node.choose_end = lambda plan=plan: next(plan, None)  # type: ignore[misc]
        before = node.seen["ended at start"]
        node.begin()
        old.end()
        node.check_all()
        assert sorted(one.pod_name for one in node.cni.attachments()) == sorted(node.living)
        if node.seen["ended at start"] == before:
            break
    assert steps > 30


EVENTS = ("added", "deleted", "exhausted", "died", "spooled", "ended", "ended at start", "given", "taken", "booted")
