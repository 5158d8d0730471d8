"""The latency probe: numbers that go to another cluster and come back as ports."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import fake_api
import hypothesis
import joined_cluster
import prometheus_client
import pytest
from hypothesis import strategies as st

from fleetboard.model import fleet, names
from fleetboard.model.keys import ServiceKey
from fleetboard.runtime import environment
from syncer.member import settings
from syncer.member.probe import controller, plan

CLUSTERS = st.sampled_from([f"c{number}" for number in range(40)])
NUMBERS = st.integers(1024, 1060)
LOST = "fleetboard_export_probe_lost_total"
STEPS = st.lists(st.tuples(st.booleans(), CLUSTERS, NUMBERS), max_size=60)


@hypothesis.given(STEPS)
def test_a_service_takes_every_question_and_echo(steps: list[tuple[bool, str, int]]) -> None:
    service = plan.ProbeService()
    for asks, cluster, number in steps:
        service = service.ask(cluster, number) if asks else service.echo(cluster, number)
        ports = service.render("c1", namespace="f")["spec"]["ports"]
        assert len({(port["protocol"], port["port"]) for port in ports}) == len(ports), "the API refuses one twice"
        assert len({port["name"] for port in ports}) == len(ports)
        assert len(ports) <= plan.ECHOES + 1
        question = {"name": f"ping-{cluster}", "protocol": "TCP", "port": number}
        assert (question if asks else question | {"name": f"pong-{cluster}", "protocol": "UDP"}) in ports


def test_numbers_begin_again_after_the_last_port() -> None:
    assert plan.next_number(1024) == 1025
    assert plan.next_number(65535) == 1024


def test_only_probe_services_of_our_own_namespace_count() -> None:
    assert plan.cluster_of(ServiceKey("fleetboard-system", "fleet-probe-c2"), namespace="fleetboard-system") == "c2"
    assert plan.cluster_of(ServiceKey("shop", "fleet-probe-c2"), namespace="fleetboard-system") is None
    assert plan.cluster_of(ServiceKey("fleetboard-system", "web"), namespace="fleetboard-system") is None


def key_of(cluster: str) -> ServiceKey:
    return ServiceKey(names.NAMESPACE, plan.service_name(cluster))


def ping(number: int, asked: str) -> fleet.ServicePort:
    return fleet.ServicePort(port=number, name=f"ping-{asked}")


class ProbeClusters:
    """Clusters with a lossless, instant link between them while ``open``."""

    def __init__(self, apis: dict[str, fake_api.FakeApi]) -> None:
        self.apis, self.open = apis, True
        self.members = set(apis)
        self.forged: dict[str, Sequence[str]] = {}
        self.probes = {
            name: controller.ProbeController(
                api.client(),
                clusterset=self,
                cluster=name,
                namespace=names.NAMESPACE,
                interval_s=0.05,
                look_up_ports=self.ask,
            )
            for name, api in apis.items()
        }

    def ports(self, cluster: str) -> list[fleet.ServicePort]:
        if cluster not in self.apis:
            return [ping(7777, "c1")]
        ports = self.apis[cluster].objects["services", names.NAMESPACE, plan.service_name(cluster)]["spec"]["ports"]
        return [fleet.ServicePort(port=port["port"], name=port["name"], protocol=port["protocol"]) for port in ports]

    def service(self, key: ServiceKey) -> fleet.FleetService | None:
        cluster = plan.cluster_of(key, namespace=names.NAMESPACE)
        assert cluster is not None
        exporters = self.forged.get(cluster, (cluster,))
        ports = self.ports(cluster)
        constituents = [fleet.Constituent(cluster=name) for name in exporters]
        spec = fleet.FleetServiceSpec(namespace=names.NAMESPACE, name=cluster, ports=ports, constituents=constituents)
        return fleet.FleetService(spec=spec)

    def service_keys(self) -> list[ServiceKey]:
        return [*map(key_of, [*self.apis, *self.forged]), ServiceKey("shop", "web")]

    def peer(self, name: str) -> fleet.Peer | None:
        return fleet.Peer(spec=fleet.PeerSpec(cluster=name)) if name in self.members else None

    def ask(self, name: str) -> Sequence[int]:
        """Answer as DNS does: by port name, protocol and service."""
        port_name, protocol, service, *_ = name.split(".")
        cluster = service.removeprefix(plan.PREFIX)
        if not self.open:
            return ()
        expected_port = port_name.removeprefix("_"), protocol.removeprefix("_").upper()
        return [port.port for port in self.ports(cluster) if (port.name, port.protocol) == expected_port]

    def follow(self, stop: threading.Event) -> None:
        """Report every key to every cluster, as the hub does."""
        while not stop.wait(0.01):
            for probe in self.probes.values():
                for key in self.service_keys():
                    probe.enqueue(key)


@contextlib.contextmanager
def two_clusters() -> Iterator[ProbeClusters]:
    """Make c1 and c2, each with a probe Service that asks nothing yet."""
    with fake_api.FakeApi() as first, fake_api.FakeApi() as second:
        apis = {"c1": first, "c2": second}
        for name, api in apis.items():
            api.put("services", plan.service_name(name), names.NAMESPACE, spec={"ports": []})
        yield ProbeClusters(apis)


@pytest.fixture
def registry() -> prometheus_client.CollectorRegistry:
    controller.PROBE_SECONDS.clear()
    controller.PROBES_LOST.clear()
    registry = prometheus_client.CollectorRegistry()
    controller.register(registry)
    return registry


def run(clusters: ProbeClusters, *, until: Callable[[], bool]) -> None:
    stop = threading.Event()
    steps = [step for probe in clusters.probes.values() for step in (probe.run, probe.answer)]
    threads = [threading.Thread(target=step, args=(stop,)) for step in (*steps, clusters.follow)]
    for thread in threads:
        thread.start()
    try:
        joined_cluster.eventually(until)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def count(registry: prometheus_client.CollectorRegistry, cluster: str) -> float:
    return registry.get_sample_value("fleetboard_export_probe_seconds_count", {"cluster": cluster}) or 0


def test_each_cluster_times_the_other(registry: prometheus_client.CollectorRegistry) -> None:
    began = time.monotonic()
    with two_clusters() as clusters:
        run(clusters, until=lambda: count(registry, "c1") > 2 and count(registry, "c2") > 2)
    total = registry.get_sample_value("fleetboard_export_probe_seconds_sum", {"cluster": "c2"})
    assert total is not None
    assert 0 < total < time.monotonic() - began, "one after the other"


def test_an_echo_that_does_not_come_is_counted(
    registry: prometheus_client.CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "LOST_S", 0.2)
    with two_clusters() as clusters:
        clusters.open = False
        run(clusters, until=lambda: (registry.get_sample_value(LOST, {"cluster": "c2"}) or 0) >= 1)
    assert count(registry, "c2") == 0


def test_only_a_member_that_alone_exports_its_probe_is_believed() -> None:
    with fake_api.FakeApi() as api:
        api.put("services", plan.service_name("c1"), names.NAMESPACE, spec={"ports": []})
        clusters = ProbeClusters({"c1": api})
        clusters.members |= {"c3", "c4"}
        clusters.forged = {"c3": ("c2",), "c4": ("c4", "c2"), **{f"x{number}": ("c2",) for number in range(100)}}
        over = time.monotonic() + 0.5
        run(clusters, until=lambda: time.monotonic() >= over)
        assert clusters.ports("c1") == [], "neither asked nor echoed"
        clusters.forged = {"c3": ("c3",)}
        clusters.probes["c1"].echo("c3", threading.Event())
        assert [(port.name, port.port) for port in clusters.ports("c1")] == [("pong-c3", 7777)]


def test_a_cluster_waits_for_its_echo_once_however_often_it_is_noticed() -> None:
    with fake_api.FakeApi() as api:
        api.put("services", plan.service_name("c1"), names.NAMESPACE, spec={"ports": []})
        clusters = ProbeClusters({"c1": api})
        clusters.members |= {"c3", "c4"}
        clusters.forged = {"c3": ("c3",), "c4": ("c4",)}
        probe_controller = clusters.probes["c1"]
        for _ in range(1000):
            probe_controller.enqueue(key_of("c3"))
            probe_controller.enqueue(key_of("c4"))
        assert len(probe_controller.echoes_due) == 2


def test_a_cluster_that_left_is_no_longer_shown(
    registry: prometheus_client.CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "LOST_S", 0.1)
    with two_clusters() as clusters:
        clusters.open = False
        stop = threading.Event()
        thread = threading.Thread(target=clusters.probes["c1"].run, args=(stop,))
        thread.start()

        def lost() -> float | None:
            return registry.get_sample_value(LOST, {"cluster": "c2"})

        joined_cluster.eventually(lambda: lost())
        clusters.members.remove("c2")
        joined_cluster.eventually(lambda: lost() is None)
        stop.set()
        thread.join(10)


def test_among_many_clusters_each_asks_less_often() -> None:
    with fake_api.FakeApi() as api:
        asking = ProbeClusters({"c1": api}).probes["c1"]
        assert 0.04 <= asking.pause_s(0) <= 0.06
        assert 0.04 <= asking.pause_s(8) <= 0.06
        assert 0.4 <= asking.pause_s(80) <= 0.6


@pytest.mark.parametrize(("text", "interval_s"), [("0", 0), ("5", 5), ("3600", 3600)])
def test_an_interval_is_off_or_five_seconds_at_least(text: str, interval_s: float) -> None:
    assert settings.read({"PROBE_INTERVAL_S": text}).probe_interval_s == interval_s
    with pytest.raises(environment.SettingRefusedError):
        settings.read({"PROBE_INTERVAL_S": "4"})
