"""The hub's syncer, whole: what members export becomes one service and copies of their slices, and ends with them."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import fake_api
import msgspec
import pytest
from hub_objects import make_exported, make_peer, make_port, make_slice
from joined_cluster import EXPORTED, MERGED, SET, SLICES, eventually
from prometheus_client import CollectorRegistry

from fleetboard.model import fleet, names
from fleetboard.runtime import threads
from syncer.hub import settings as hub_settings
from syncer.hub.syncer import HubSyncer
from syncer.rules.clusterset_settings import ClustersetSettings

BLOCKS = {"c1": "10.113.0.0/22", "c2": "10.113.4.0/22"}


class Hub:
    """An API server, and syncer-hub beside it while ``running``."""

    def __init__(self, api: fake_api.FakeApi, *, fleet_cidrs: str = "10.112.0.0/12") -> None:
        self.api, self.registry = api, CollectorRegistry()
        self._layouts = hub_settings.parse_layouts(fleet_cidrs)
        for cluster, block in BLOCKS.items():
            peer = make_peer(cluster, uid=f"uid-{cluster}", admitted=True, blocks=[block])
            body = msgspec.to_builtins(peer)
            body["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:00:00Z"
            api.put("peers", cluster, SET, spec=body["spec"], status=body["status"])

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run a new process of syncer-hub, whose predecessor handed over."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now, "acquireTime": now}
        self.api.put("leases", "syncer-hub", names.NAMESPACE, spec=spec)
        self.registry = CollectorRegistry()
        settings = hub_settings.HubSettings(
            namespace=names.NAMESPACE,
            clusterset=ClustersetSettings("default", self._layouts, 1360),
            identity="syncer-hub",
            observe_port=0,
        )
        hub_syncer = HubSyncer(self.api.client(), settings, self.registry)
        stop = threading.Event()
        thread = threading.Thread(target=threads.run, args=(hub_syncer.threads, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)
            assert not thread.is_alive()

    def export(self, cluster: str, *texts: str, second: int = 0, **spec: object) -> None:
        """Let a member export ``shop/web`` with endpoints at these addresses; the hub writes down the second."""
        space = names.member_namespace("default", cluster)
        exported: Any = make_exported(**spec)  # type: ignore[arg-type]
        metadata = {"name": "shop.web", "namespace": space, "creationTimestamp": f"2026-01-01T00:00:{second:02}Z"}
        with self.api.changed:
            written = {"metadata": metadata, "spec": msgspec.to_builtins(exported.spec)}
            self.api.store((EXPORTED, space, "shop.web"), written)
        body: dict[str, Any] = msgspec.to_builtins(make_slice(texts, name="shop.web.ipv4.x"))
        body["metadata"]["namespace"] = space
        with self.api.changed:
            self.api.store((SLICES, space, "shop.web.ipv4.x"), {**body, "addressType": "IPv4"})

    def withdraw(self, cluster: str) -> None:
        """Let a member take its export back."""
        space = names.member_namespace("default", cluster)
        self.api.remove(EXPORTED, "shop.web", space)
        self.api.remove(SLICES, "shop.web.ipv4.x", space)

    def merged(self) -> fleet.FleetServiceSpec | None:
        """Return the service."""
        found = self.api.objects.get((MERGED, SET, "shop.web"))
        return msgspec.convert(found, fleet.FleetService).spec if found is not None else None

    def copies(self) -> dict[str, list[str]]:
        """Return the addresses of each copy, by its name."""
        found = {key[2]: obj for key, obj in list(self.api.objects.items()) if key[:2] == (SLICES, SET)}
        return {
            name: [text for one in obj.get("endpoints") or [] for text in one["addresses"]]
            for name, obj in found.items()
        }

    def count(self, metric: str, cluster: str) -> float:
        """Return a counter."""
        return self.registry.get_sample_value(metric, {"cluster": cluster}) or 0.0


@pytest.fixture
def hub() -> Iterator[Hub]:
    with fake_api.FakeApi() as api:
        yield Hub(api)


def test_mcs2_mcs21_exports_of_one_name_are_one_service_with_one_address_for_its_life(hub: Hub) -> None:
    hub.export("c1", "10.113.0.5", ports=[make_port(80, "http")])
    with hub.running():
        eventually(lambda: (one := hub.merged()) is not None and one.vips)
        first = hub.merged()
        hub.export("c2", "10.113.4.5", ports=[make_port(80, "http")])
        eventually(lambda: (one := hub.merged()) is not None and len(one.constituents) == 2)
        second = hub.merged()
        assert first is not None
        assert second is not None
        assert second.vips == first.vips
        assert second.conflicts == {}
        eventually(lambda: sorted(itertools.chain(*hub.copies().values())) == ["10.113.0.5", "10.113.4.5"])


def test_mcs14_who_came_first_at_the_hub_wins_whatever_the_members_say(hub: Hub) -> None:
    hub.export("c2", second=1, ports=[make_port(80, "http")], export_created="2026-06-01T00:00:00Z")
    hub.export("c1", second=2, ports=[make_port(81, "http")], export_created="1999-01-01T00:00:00Z")
    with hub.running():
        eventually(lambda: (one := hub.merged()) is not None and len(one.constituents) == 2)
        merged = hub.merged()
        assert merged is not None
        assert [one.cluster for one in merged.constituents] == ["c2", "c1"]
        assert [port.port for port in merged.ports] == [80]
        assert set(merged.conflicts) == {"PortConflict"}


def test_mcs3_the_last_export_takes_service_and_copies_with_it(hub: Hub) -> None:
    hub.export("c1", "10.113.0.5")
    hub.export("c2", "10.113.4.5")
    with hub.running():
        eventually(lambda: len(hub.copies()) == 2 and hub.merged())
        hub.withdraw("c1")
        eventually(lambda: len(hub.copies()) == 1 and [one.cluster for one in hub.merged().constituents] == ["c2"])  # type: ignore[union-attr]
        hub.withdraw("c2")
        eventually(lambda: not hub.copies() and hub.merged() is None)


def test_what_members_took_back_while_the_hub_was_down_goes_when_it_is_back(hub: Hub) -> None:
    hub.export("c1", "10.113.0.5")
    with hub.running():
        eventually(lambda: hub.copies() and hub.merged())
    hub.withdraw("c1")
    with hub.running():
        eventually(lambda: not hub.copies() and hub.merged() is None)


def test_what_members_took_back_during_a_relist_after_410_goes(hub: Hub) -> None:
    hub.export("c1", "10.113.0.5")
    with hub.running():
        eventually(lambda: hub.copies() and hub.merged())
        with hub.api.changed:
            del hub.api.objects[EXPORTED, "fleetboard-default-c1", "shop.web"]
            del hub.api.objects[SLICES, "fleetboard-default-c1", "shop.web.ipv4.x"]
            hub.api.compact()
        eventually(lambda: not hub.copies() and hub.merged() is None)


def test_foreign_addresses_are_left_out_of_the_copy_counted_and_noted_on_it(hub: Hub) -> None:
    hub.export("c1", "10.113.0.5", "10.113.4.5", "127.0.0.1", "255.255.255.255")
    with hub.running():
        eventually(lambda: list(hub.copies().values()) == [["10.113.0.5"]])
        (copy,) = (obj for key, obj in hub.api.objects.items() if key[:2] == (SLICES, SET))
        assert copy["metadata"]["annotations"] == {names.ANNOTATION_REFUSED: "3"}
        eventually(lambda: hub.count("fleetboard_hub_addresses_dropped_total", "c1") == 3)
        hub.export("c1", "10.113.0.5")
        eventually(
            lambda: (
                not [
                    obj
                    for key, obj in hub.api.objects.items()
                    if key[:2] == (SLICES, SET) and obj["metadata"].get("annotations")
                ]
            )
        )


def test_mcs19_both_families_have_an_address_where_the_service_has_both() -> None:
    with fake_api.FakeApi() as api:
        hub = Hub(api, fleet_cidrs="10.112.0.0/12,fd00:1::/48")
        hub.export("c1", ip_families=["IPv6", "IPv4"])
        with hub.running():
            eventually(lambda: (one := hub.merged()) is not None and len(one.vips) == 2)
            merged = hub.merged()
            assert merged is not None
            assert merged.ip_families == ["IPv6", "IPv4"]
            assert [":" in vip for vip in merged.vips] == [True, False]
            hub.export("c1", ip_families=["IPv4"])
            eventually(lambda: (one := hub.merged()) is not None and one.vips == [merged.vips[1]])
