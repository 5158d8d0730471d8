"""The latency probe: numbers that go to another cluster and come back as ports."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import fake_api
import hypothesis
import prometheus_client
import pytest
from hypothesis import strategies as st

from fleetboard.model import fleet, names
from syncer import probe, probing

CLUSTERS = st.sampled_from([f"c{number}" for number in range(40)])
NUMBERS = st.integers(1024, 1060)
STEPS = st.lists(st.tuples(st.booleans(), CLUSTERS, NUMBERS), max_size=60)


@hypothesis.given(STEPS)
def test_a_service_takes_whatever_was_asked_and_echoed(steps: list[tuple[bool, str, int]]) -> None:
    said = probe.Said()
    for asks, cluster, number in steps:
        said = said.ask(cluster, number) if asks else said.echo(cluster, number)
        ports = said.render("c1", namespace="f")["spec"]["ports"]
        assert len({(port["protocol"], port["port"]) for port in ports}) == len(ports), "the API refuses one twice"
        assert len({port["name"] for port in ports}) == len(ports)
        assert len(ports) <= probe.ECHOES + 1
        wanted = {"name": f"ping-{cluster}", "protocol": "TCP", "port": number}
        assert (wanted if asks else wanted | {"name": f"pong-{cluster}", "protocol": "UDP"}) in ports


def test_numbers_begin_again_after_the_last_port() -> None:
    assert probe.following(1024) == 1025
    assert probe.following(65535) == 1024


def test_only_probe_services_of_our_own_namespace_count() -> None:
    assert probe.cluster_of("fleetboard-system/fleet-probe-c2", namespace="fleetboard-system") == "c2"
    assert probe.cluster_of("shop/fleet-probe-c2", namespace="fleetboard-system") is None
    assert probe.cluster_of("fleetboard-system/web", namespace="fleetboard-system") is None


class World:
    """Two clusters and a road between them that takes no time, once ``open``."""

    def __init__(self, apis: dict[str, fake_api.FakeApi]) -> None:
        self.apis, self.open = apis, True
        self.probes = {
            name: probing.Probing(
                api.client(),
                clusterset=self,
                cluster=name,
                namespace=names.NAMESPACE,
                interval_s=0.05,
                ask=self.ask,
            )
            for name, api in apis.items()
        }

    def ports(self, cluster: str) -> list[fleet.ServicePort]:
        found = self.apis[cluster].objects["services", names.NAMESPACE, probe.service_name(cluster)]["spec"]["ports"]
        return [fleet.ServicePort(port=one["port"], name=one["name"], protocol=one["protocol"]) for one in found]

    def service(self, key: str) -> fleet.FleetService | None:
        cluster = probe.cluster_of(key, namespace=names.NAMESPACE)
        assert cluster is not None
        spec = fleet.FleetServiceSpec(namespace=names.NAMESPACE, name=cluster, ports=self.ports(cluster))
        return fleet.FleetService(spec=spec)

    def service_keys(self) -> list[str]:
        return [f"{names.NAMESPACE}/{probe.service_name(name)}" for name in self.apis] + ["shop/web"]

    def ask(self, name: str) -> Sequence[int]:
        """Answer as DNS does: by port name, protocol and service."""
        port, protocol, service, *_ = name.split(".")
        cluster = service.removeprefix(probe.PREFIX)
        if not self.open:
            return ()
        wanted = port.removeprefix("_"), protocol.removeprefix("_").upper()
        return [one.port for one in self.ports(cluster) if (one.name, one.protocol) == wanted]

    def follow(self, stop: threading.Event) -> None:
        """Tell everybody of everything, as the hub does."""
        while not stop.wait(0.01):
            for one in self.probes.values():
                for key in self.service_keys():
                    one.notice(key)


@pytest.fixture
def registry() -> prometheus_client.CollectorRegistry:
    probing.SECONDS.clear()
    probing.LOST.clear()
    made = prometheus_client.CollectorRegistry()
    probing.register(made)
    return made


def run(world: World, *, until: float) -> None:
    stop = threading.Event()
    steps = [step for one in world.probes.values() for step in (one.run, one.answer)]
    threads = [threading.Thread(target=step, args=(stop,)) for step in (*steps, world.follow)]
    for thread in threads:
        thread.start()
    time.sleep(until)
    stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def count(registry: prometheus_client.CollectorRegistry, cluster: str) -> float:
    return registry.get_sample_value("fleetboard_export_probe_seconds_count", {"cluster": cluster}) or 0


def test_each_cluster_times_the_other(registry: prometheus_client.CollectorRegistry) -> None:
    with fake_api.FakeApi() as one, fake_api.FakeApi() as two:
        for name, api in (("c1", one), ("c2", two)):
            api.put("services", probe.service_name(name), names.NAMESPACE, spec={"ports": []})
        run(World({"c1": one, "c2": two}), until=1.0)
    assert count(registry, "c1") > 2
    assert count(registry, "c2") > 2
    total = registry.get_sample_value("fleetboard_export_probe_seconds_sum", {"cluster": "c2"})
    assert total is not None
    assert total / count(registry, "c2") < 0.5


def test_an_echo_that_does_not_come_is_counted(
    registry: prometheus_client.CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "LOST_S", 0.2)
    with fake_api.FakeApi() as one, fake_api.FakeApi() as two:
        for name, api in (("c1", one), ("c2", two)):
            api.put("services", probe.service_name(name), names.NAMESPACE, spec={"ports": []})
        world = World({"c1": one, "c2": two})
        world.open = False
        run(world, until=0.8)
    assert (registry.get_sample_value("fleetboard_export_probe_lost_total", {"cluster": "c2"}) or 0) >= 1
    assert count(registry, "c2") == 0
