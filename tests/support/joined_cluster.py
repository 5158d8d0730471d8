"""A joined cluster's syncer, whole, between two API servers that are ours: its own, c1, and the hub's.

Tests write what the hub would write.

Invariant: everything but the credential is real and wired as in a cluster, so tests also show who notices which change.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import fake_api
import msgspec
import polling
from mcs_objects import MCS_GROUP_VERSION, import_schema

from fleetboard.kube.client import Client
from fleetboard.model import core, fleet, mcs, membership, meta, names, namespaces
from fleetboard.runtime import threads
from syncer.member.join import settings as join_settings
from syncer.member.join.credential import Credential
from syncer.member.member import JoinedMember
from syncer.member.settings import MemberSettings

Object = dict[str, Any]
EXPORTS, IMPORTS, SLICES, SERVICES = "serviceexports", "serviceimports", "endpointslices", "services"
EXPORTED, MERGED = "exportedservices", "fleetservices"
SET, OWN = "fleetboard-default", "fleetboard-default-c1"
BLOCKS = {"c1": "10.113.0.0/22", "c2": "10.113.4.0/22"}


class _Credential:
    """The one part that isn't real: joining has its own tests."""

    problem = None

    def __init__(self, hub: fake_api.FakeApi) -> None:
        self._hub = hub
        self.join = join_settings.HubJoin(hub.url, b"", "t", membership.Member("default", "c1"))

    def connect(self) -> Client:
        return self._hub.client()

    def run(self, stop: threading.Event) -> None:
        stop.wait()


class Cluster:
    """Both API servers, and the syncer between them while ``running``."""

    def __init__(self, local: fake_api.FakeApi, hub: fake_api.FakeApi) -> None:
        self.local, self.hub = local, hub
        local.openapi[MCS_GROUP_VERSION] = import_schema()
        local.put("namespaces", "shop", "")
        for cluster, block in BLOCKS.items():
            condition = {"type": "Admitted", "status": "True", "reason": "Admitted", "message": "m"}
            condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"
            status = {"clusterCidrs": [block], "clusterUid": f"uid-{cluster}", "conditions": [condition]}
            hub.put("peers", cluster, SET, spec={"cluster": cluster}, status=status)

    @contextlib.contextmanager
    def running(self) -> Iterator[JoinedMember]:
        """Run a new process of syncer."""
        settings = MemberSettings(
            namespace=names.NAMESPACE,
            identity="syncer",
            observe_port=0,
            log_level="info",
            dns_configure=False,
            networks=(),
            imports=namespaces.Namespaces(),
        )
        credential = cast("Credential", _Credential(self.hub))
        member = JoinedMember(settings, local=self.local.client(), credential=credential, cluster_uid="uid-c1")
        stop = threading.Event()
        thread = threading.Thread(target=threads.run, args=(member.threads(), stop), daemon=True)
        thread.start()
        try:
            yield member
        finally:
            stop.set()
            thread.join(30)
            assert not thread.is_alive()

    # What users and the cluster's own controllers do.

    def export(self, *pods: str, name: str = "web") -> None:
        """Make Service, its EndpointSlice, the pods' fleet addresses and the ServiceExport."""
        self.serve(*pods, name=name)
        self.local.put(EXPORTS, name, "shop")

    def serve(self, *pods: str, name: str = "web") -> None:
        """Make a Service and what is behind it; pods are ``uid=fleet address``."""
        port = {"name": "http", "port": 80, "protocol": "TCP"}
        spec = {"type": "ClusterIP", "clusterIP": "10.96.0.9", "ports": [port]}
        self.local.put(
            SERVICES, name, "shop", spec={**spec, "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"]}
        )
        self.endpoints(*pods, name=name)

    def endpoints(self, *pods: str, name: str = "web") -> None:
        """Let these pods be what is behind the Service."""
        known = dict(pod.split("=") for pod in pods)
        held = [
            {"podUid": uid, "podNamespace": "shop", "podName": uid, "interface": "net1", "addresses": [address]}
            for uid, address in known.items()
        ]
        self.local.put("nodeattachments", "n1", names.NAMESPACE, attachments=held)
        listed = [
            {
                "addresses": [f"10.244.0.{number}"],
                "nodeName": "n1",
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": uid, "uid": uid},
            }
            for number, uid in enumerate(known, 1)
        ]
        with self.local.changed:
            metadata = {"name": f"{name}-x1", "namespace": "shop", "labels": {"kubernetes.io/service-name": name}}
            ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
            body = {"metadata": metadata, "addressType": "IPv4", "endpoints": listed, "ports": ports}
            self.local.store((SLICES, "shop", f"{name}-x1"), body)

    # What the hub does.

    def merge(self, *clusters: str, name: str = "web", namespace: str = "shop", **merged: Any) -> None:
        """Let the hub say that these clusters export a service."""
        port = fleet.ServicePort(port=80, name="http")
        constituents = [fleet.Constituent(cluster=cluster, ports=[port]) for cluster in clusters]
        merged = {"vips": ["10.112.0.9"], "ports": [port], "constituents": constituents, **merged}
        spec = fleet.FleetServiceSpec(namespace=namespace, name=name, **merged)
        self.hub.put(MERGED, f"{namespace}.{name}", SET, spec=msgspec.to_builtins(spec))

    def publish(self, *addresses: str, cluster: str = "c2", name: str = "web", namespace: str = "shop") -> None:
        """Let the hub hold a copy of another cluster's slice."""
        labels = {
            names.LABEL_MANAGED_BY: names.MANAGED_BY,
            names.LABEL_SOURCE_CLUSTER: cluster,
            names.LABEL_SERVICE_NAME: name,
            names.LABEL_SERVICE_NAMESPACE: namespace,
        }
        key = f"{cluster}.{namespace}.{name}.ipv4.x"
        with self.hub.changed:
            listed = [{"addresses": [address], "conditions": {"ready": True}} for address in addresses]
            body = {
                "metadata": {"name": key, "namespace": SET, "labels": labels},
                "addressType": "IPv4",
                "endpoints": listed,
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            }
            self.hub.store((SLICES, SET, key), body)

    # What there is.

    def sent(self) -> list[str]:
        """Return the addresses that this cluster publishes at the hub."""
        return self._addresses(self.hub, OWN)

    def received(self, namespace: str = "shop") -> list[str]:
        """Return the addresses that are imported here."""
        return self._addresses(self.local, namespace)

    def imported(self, name: str = "web", namespace: str = "shop") -> mcs.ServiceImport | None:
        """Return the ServiceImport."""
        found = self.local.objects.get((IMPORTS, namespace, name))
        return msgspec.convert(found, mcs.ServiceImport) if found is not None else None

    def reported(self, name: str = "web") -> dict[str, tuple[str, str]]:
        """Return status and reason of the ServiceExport's conditions."""
        return {one.type: (one.status, one.reason) for one in self.conditions(name)}

    def conditions(self, name: str = "web") -> list[meta.Condition]:
        """Return the ServiceExport's conditions."""
        found = msgspec.convert(self.local.objects[EXPORTS, "shop", name], mcs.ServiceExport)
        return found.status.conditions

    def _addresses(self, api: fake_api.FakeApi, namespace: str) -> list[str]:
        found = [msgspec.convert(obj, core.EndpointSlice) for key, obj in list(api.objects.items()) if key[0] == SLICES]
        ours = [
            slice_
            for slice_ in found
            if slice_.metadata.namespace == namespace
            and slice_.metadata.labels.get(names.LABEL_MANAGED_BY) == names.MANAGED_BY
        ]
        return sorted(text for slice_ in ours for endpoint in slice_.endpoints or [] for text in endpoint.addresses)


@contextlib.contextmanager
def make() -> Iterator[Cluster]:
    """Make a cluster that has joined, and stop its API servers afterwards."""
    with fake_api.FakeApi() as local, fake_api.FakeApi() as hub:
        yield Cluster(local, hub)


eventually = polling.wait_until


def never(check: Callable[[], object], *, for_s: float = 0.5) -> None:
    """Check that something stays untrue for a while, in which it would have happened."""
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        assert not check()
        time.sleep(0.02)
