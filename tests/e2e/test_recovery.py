"""What breaks around and inside cnf on one node, and that neither connections nor addresses are lost by it.

Forty TCP connections from a pod of c1 to one of c2 are open all the while: direct and through a VIP, spoken by their
client or pushed by their server. None of them is ever opened again. The tests' order is such that no container of one
pod ends twice, which kubelet would answer with a pause before it starts the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterator

import endless
import lab
import pings
import pytest

NAMESPACE = "e2e-recovery"
EACH = 10
"""Connections of each kind to each target: 40 in all."""
SCRIPT = pathlib.Path(__file__).with_name("streams_pod.py").read_text()
PORT = 9000
AGENT = "python -m cnf"
REPLACED_S = 60.0
"""Until all go on after a pod was replaced: its start, then TCP's own timer, which has doubled meanwhile."""
TAG = "docker.io/library/fleetboard:e2e-recovery"


@dataclasses.dataclass(frozen=True)
class Streams:
    """The pod that holds the connections, and the one that answers them."""

    client: lab.Pod
    server: lab.Pod

    def read(self) -> list[dict[str, object]]:
        """Return the state of every connection.

        Raises:
            AssertionError: one is lost.
        """
        found: list[dict[str, object]] = json.loads(self.client.sh("cat /tmp/streams"))
        lost = [stream for stream in found if stream["error"]]
        assert not lost, f"{len(lost)} of {len(found)} connections are lost: {lost[:3]}"
        assert len(found) == 4 * EACH
        return found

    def calm(self) -> float:
        """Forget how long any connection stood still so far; return when."""
        self.client.sh("touch /tmp/streams.calm")
        lab.eventually(lambda: self.client.sh("test -e /tmp/streams.calm || echo done"), within_s=60)
        return time.time()

    def wait_going(self, since: float, *, within_s: float) -> float:
        """Wait until every connection got something after ``since``; return how long one stood still at most."""

        def going() -> list[float]:
            streams = self.read()
            still = [stream for stream in streams if float(str(stream["last"])) < since]
            assert not still, f"{len(still)} stand still: {still[:2]}"
            return [float(str(stream["stall"])) for stream in streams]

        return max(lab.eventually(going, within_s=within_s, every_s=0.5))


@pytest.fixture(scope="module")
def streams(namespaces: Callable[[str], str]) -> Streams:
    namespaces(NAMESPACE)
    script = ["python3", "-u", "-c", SCRIPT]
    server = lab.make_deployment("streams", NAMESPACE, command=[*script, "server"], probe_port=PORT, cpu=lab.MEASURED)
    lab.C2.apply(
        server,
        lab.make_service("streams", NAMESPACE, ("tcp", "TCP", PORT, PORT)),
        lab.make_export("streams", NAMESPACE),
    )
    (answering,) = lab.C2.wait_pods(NAMESPACE, "streams", 1)
    lab.C1.apply(lab.make_deployment("resolver", NAMESPACE, node=victim()))
    (resolver,) = lab.C1.wait_pods(NAMESPACE, "resolver", 1)
    name = lab.dns_name("streams", NAMESPACE)
    vip = lab.eventually(lambda: resolver.sh(f"getent ahostsv4 {name}"), within_s=30).split()[0]
    targets = [f"direct={answering.fleet_address}", f"vip={vip}"]
    holder = [*script, "client", str(EACH), *targets]
    lab.C1.apply(lab.make_deployment("holder", NAMESPACE, node=victim(), command=holder, cpu=lab.MEASURED))
    (holding,) = lab.C1.wait_pods(NAMESPACE, "holder", 1)
    made = Streams(holding, answering)
    lab.eventually(made.read, within_s=20)
    return made


def victim() -> str:
    """Return the node of c1 that doesn't carry its API server."""
    (control,) = (
        node["metadata"]["name"] for node in lab.C1.list("nodes", selector="node-role.kubernetes.io/control-plane")
    )
    return next(node for node in lab.C1.nodes() if node != control)


@pytest.fixture(autouse=True)
def _going(streams: Streams) -> None:
    """Begin with every cnf ready and every connection alive."""
    lab.eventually(lambda: cnf_ready(lab.C1) and cnf_ready(lab.C2), within_s=60, every_s=0.5)
    streams.wait_going(streams.calm(), within_s=REPLACED_S)


def cnf_ready(cluster: lab.Cluster) -> bool:
    pods = cluster.list("pods", lab.SYSTEM, selector="app.kubernetes.io/name=cnf")
    return len(pods) == len(cluster.nodes()) and all(
        lab.is_ready(pod) and "deletionTimestamp" not in pod["metadata"] for pod in pods
    )


@contextlib.contextmanager
def pinging(streams: Streams, *, for_s: float) -> Iterator[None]:
    """Ping the server every 5 ms meanwhile, at least for ``for_s`` seconds; no answer may be lost."""
    began = time.time()
    ping = endless.start(streams.client, streams.server.fleet_address, every_s=0.005)
    yield
    seen = ping.end(after=max(time.time(), began + for_s))
    assert not pings.lost(seen), pings.lost(seen)


def agent(node: str) -> str:
    """Return the process id of a node's cnf."""
    return lab.C1.node_exec(node, "pgrep", "-xf", AGENT).strip()


def signal(node: str, name: str) -> str:
    """Send cnf a signal, wait for its successor, and return that one's process id."""
    old = agent(node)
    lab.C1.node_exec(node, "kill", f"-{name}", old)
    return lab.eventually(lambda: (found := agent(node)) != old and found, within_s=60) or ""


def served_after_s(node: str, process: str) -> float:
    """Return how long after its start a cnf process listened for CNI calls."""
    ticks, uptime = lab.C1.node_exec(
        node, "sh", "-c", f"awk '{{print $22}}' /proc/{process}/stat; cut -d' ' -f1 /proc/uptime"
    ).split()
    started = time.time() - float(uptime) + float(ticks) / 100
    listening = lab.eventually(
        lambda: (
            (at := float(lab.C1.node_exec(node, "stat", "-c", "%.3Y", "/run/fleetboard/cni.sock"))) > started and at
        ),
        within_s=30,
    )
    return float(listening) - started


def attach(name: str, *, replicas: int = 1) -> list[lab.Pod]:
    """Start pods on the victim's node and return them once they run with their interface."""
    lab.C1.apply(lab.make_deployment(name, NAMESPACE, node=victim(), replicas=replicas))
    return lab.C1.wait_pods(NAMESPACE, name, replicas)


def held(node: str) -> dict[str, str]:
    """Return the fleet addresses that cnf published for a node's pods, by the pod's name."""
    found = lab.C1.get("nodeattachments", node, lab.SYSTEM)
    return {one["podName"]: one["addresses"][0] for one in found["attachments"]}


def wait_exact(node: str, *, within_s: float = 90) -> None:
    """Wait until exactly the attached pods that exist on a node hold an address."""

    def exact() -> bool:
        pods = lab.C1.list("pods")
        wanted = {
            pod["metadata"]["name"]
            for pod in pods
            if pod["spec"].get("nodeName") == node and lab.NETWORKS in pod["metadata"].get("annotations", {})
        }
        assert set(held(node)) == wanted, f"held {sorted(held(node))}, wanted {sorted(wanted)}"
        return True

    lab.eventually(exact, within_s=within_s, every_s=1)


def test_a_killed_process_loses_no_packet_and_serves_at_once(streams: Streams) -> None:
    node = victim()
    with pinging(streams, for_s=6):
        since = time.time()
        process = signal(node, "KILL")
        served_s = served_after_s(node, process)
        (pod,) = attach("after-kill")
    assert pod.fleet_address
    stall = streams.wait_going(since, within_s=5)
    lab.record("cnf killed: until it serves CNI calls, from the start of its process", served_s)
    lab.record("cnf killed: longest silence of 40 connections that speak every 0.2 s", stall)


def test_forty_connections_outlive_a_replaced_pod_of_their_client(streams: Streams) -> None:
    replace_under(streams, "client")


def test_a_restarted_container_loses_no_packet(streams: Streams) -> None:
    with pinging(streams, for_s=6):
        since = time.time()
        signal(victim(), "TERM")
    streams.wait_going(since, within_s=5)
    wait_exact(victim())


def test_forty_connections_outlive_a_replaced_pod_of_their_server(streams: Streams) -> None:
    replace_under(streams, "server")


def replace_under(streams: Streams, side: str) -> None:
    """Replace the cnf pod under one end of the connections."""
    pod = streams.client if side == "client" else streams.server
    cluster, node = pod.cluster, pod.node
    before = pod.sh("ip -o -4 addr show dev net1; cat /sys/class/net/net1/ifindex")
    name = cluster.cnf_pod(node)
    since = time.time()
    cluster.delete("pod", name, lab.SYSTEM)
    lab.eventually(lambda: cluster.cnf_pod(node) != name and cnf_ready(cluster), within_s=60, every_s=0.2)
    back = time.time()
    stall = streams.wait_going(back, within_s=REPLACED_S)
    assert pod.sh("ip -o -4 addr show dev net1; cat /sys/class/net/net1/ifindex") == before
    lab.record(f"cnf pod of the {side} replaced: until it is ready", back - since)
    lab.record(f"cnf pod of the {side} replaced: longest silence of 40 connections, none lost", stall)


def test_an_image_is_exchanged_in_place_without_loss(streams: Streams) -> None:
    node = streams.server.node
    name = lab.C2.cnf_pod(node)
    before = lab.C2.get("pod", name, lab.SYSTEM)
    image = container_image(before)
    lab.C2.node_exec(node, "ctr", "-n", "k8s.io", "images", "tag", "--force", f"docker.io/library/{image}", TAG)
    try:
        with pinging(streams, for_s=12):
            since = time.time()
            set_image(name, TAG)
            after = lab.C2.get("pod", name, lab.SYSTEM)
    finally:
        set_image(name, image)
        lab.C2.node_exec(node, "ctr", "-n", "k8s.io", "images", "rm", TAG)
    streams.wait_going(since, within_s=5)
    assert container_image(after) == TAG
    assert after["status"]["podIP"] == before["status"]["podIP"]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def container_image(pod: dict[str, object]) -> str:
    spec = json.loads(json.dumps(pod["spec"]))
    return next(str(one["image"]) for one in spec["containers"] if one["name"] == "cnf")


def set_image(pod: str, image: str) -> None:
    """Exchange the image of a pod's cnf as an upgrade does, and wait until that one runs."""
    restarts = restart_count(pod)
    lab.C2.kubectl("-n", lab.SYSTEM, "set", "image", f"pod/{pod}", f"cnf={image}")
    lab.eventually(lambda: restart_count(pod) > restarts and cnf_ready(lab.C2), within_s=60, every_s=0.2)


def restart_count(pod: str) -> int:
    found = lab.C2.get("pod", pod, lab.SYSTEM)["status"]["containerStatuses"]
    return next(int(one["restartCount"]) for one in found if one["name"] == "cnf")


def test_containerd_restarts_and_nothing_is_lost(streams: Streams) -> None:
    with pinging(streams, for_s=6):
        since = time.time()
        lab.C1.node_exec(victim(), "systemctl", "restart", "containerd")
        (pod,) = attach("after-containerd")
    assert pod.fleet_address
    streams.wait_going(since, within_s=5)


def test_multus_dies_in_the_middle_of_adds_and_every_pod_gets_one_address(streams: Streams) -> None:
    node = victim()
    lab.C1.apply(lab.make_deployment("amid", NAMESPACE, node=node, replicas=6))
    # The first of them is wired: the others are on their way.
    lab.eventually(lambda: any(pod.startswith("amid-") for pod in held(node)), within_s=60, every_s=0.05)
    lab.C1.node_exec(node, "sh", "-c", "kill -9 $(pgrep -x multus-daemon)")
    pods = lab.C1.wait_pods(NAMESPACE, "amid", 6, within_s=120)
    lab.eventually(lambda: len({pod.fleet_address for pod in pods}) == 6, within_s=60, every_s=1)
    wait_exact(node)
    lab.C1.delete("deployment", "amid", NAMESPACE)
    wait_exact(node)


def test_a_namespace_that_is_gone_before_its_del_keeps_no_address(streams: Streams) -> None:
    node = victim()
    (pod,) = attach("gone")
    address = pod.fleet_address
    path = netns_of(node, address)
    lab.C1.node_exec(node, "sh", "-c", f"umount -l {path} && rm {path}")
    lab.C1.delete("deployment", "gone", NAMESPACE)
    lab.eventually(lambda: not lab.C1.list("pods", NAMESPACE, selector="app=gone"), within_s=60, every_s=0.5)
    lab.eventually(lambda: address not in held(node).values(), within_s=90, every_s=1)


def netns_of(node: str, address: str) -> str:
    """Return the path of the network namespace that holds an address on net1."""
    script = (
        "for n in /run/netns/*; do nsenter --net=$n ip -o -4 addr show dev net1 2>/dev/null"
        f" | grep -qw {address} && echo $n && exit; done; exit 1"
    )
    return lab.C1.node_exec(node, "sh", "-c", script).strip()


def test_a_pod_without_its_interface_is_found_reported_and_wired(streams: Streams) -> None:
    node = victim()
    lab.C1.apply(lab.make_deployment("late", NAMESPACE, node=node, attached=False))
    (pod,) = lab.C1.wait_pods(NAMESPACE, "late", 1)
    assert "net1" not in pod.sh("ip -br link")
    healed = metric(node, "fleetboard_pods_healed_total")
    # As if Multus had been away when the pod was started.
    lab.C1.kubectl("-n", NAMESPACE, "annotate", "pod", pod.name, f"{lab.NETWORKS}={lab.ATTACHED[lab.NETWORKS]}")
    lab.eventually(lambda: pod.fleet_address, within_s=40, every_s=0.5)
    messages = lab.eventually(lambda: events(pod, "FleetInterfaceAdded"), within_s=20, every_s=0.5)
    assert "started without its interface" in messages[0]
    assert metric(node, "fleetboard_pods_healed_total") == healed + 1
    lab.eventually(lambda: metric(node, "fleetboard_pods_unattached") == 0, within_s=30, every_s=1)


def events(pod: lab.Pod, reason: str) -> list[str]:
    """Return what events of a reason say about a pod."""
    return [
        event["message"]
        for event in pod.cluster.list("events", pod.namespace)
        if event["involvedObject"]["name"] == pod.name and event["reason"] == reason
    ]


def metric(node: str, name: str) -> float:
    """Return a metric of a node's cnf."""
    shown = lab.C1.kubectl(
        "get", "--raw", f"/api/v1/namespaces/{lab.SYSTEM}/pods/{lab.C1.cnf_pod(node)}:9464/proxy/metrics"
    )
    return next(float(line.split()[1]) for line in shown.splitlines() if line.startswith(f"{name} "))
