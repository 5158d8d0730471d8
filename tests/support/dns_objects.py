"""Builders of what crossdns reads, and a resolver that asks it without sockets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dnslib
import msgspec
from fake_api import FakeApi

from crossdns.server import feed, odd
from crossdns.server.answerer import Answerer
from crossdns.zone import encode, table, zone
from fleetboard.model import core, fleet, meta, names
from fleetboard.model.keys import ServiceKey
from fleetboard.model.reach import Reach

SERVER = "crossdns.fleetboard-system.svc.cluster.local"
KEY = ServiceKey("shop", "web")


def make_service(
    key: ServiceKey = KEY,
    *,
    vips: Iterable[str] = ("10.112.0.9",),
    ports: Iterable[tuple[str, str, int]] = (("http", "TCP", 80),),
    type_: str = "ClusterSetIP",
) -> fleet.FleetService:
    return fleet.FleetService(
        metadata=meta.ObjectMeta(name=key.dotted, namespace=names.NAMESPACE),
        spec=fleet.FleetServiceSpec(
            namespace=key.namespace,
            name=key.name,
            type=type_,
            vips=list(vips) if type_ == "ClusterSetIP" else [],
            ports=[fleet.ServicePort(name=name, protocol=protocol, port=port) for name, protocol, port in ports],
        ),
    )


def make_endpoint(*found: str, hostname: str | None = None, ready: bool | None = None) -> core.Endpoint:
    return core.Endpoint(addresses=list(found), hostname=hostname, conditions=core.EndpointConditions(ready=ready))


def make_slice(
    cluster: str,
    endpoints: Iterable[core.Endpoint],
    *,
    ports: Iterable[tuple[str, str, int]] = (("http", "TCP", 8080),),
    key: ServiceKey = KEY,
    name: str = "",
) -> core.EndpointSlice:
    labels = {
        names.LABEL_SERVICE_NAME: key.name,
        names.LABEL_SOURCE_CLUSTER: cluster,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
    }
    return core.EndpointSlice(
        metadata=meta.ObjectMeta(name=name or f"{key.name}-{cluster}", namespace=key.namespace, labels=labels),
        endpoints=list(endpoints),
        ports=[core.EndpointPort(name=n, protocol=protocol, port=port) for n, protocol, port in ports],
    )


def make_peer(cluster: str, *, reachable: bool = True) -> fleet.Peer:
    return fleet.Peer(
        metadata=meta.ObjectMeta(name=cluster, namespace=names.NAMESPACE),
        spec=fleet.PeerSpec(cluster=cluster),
        status=fleet.PeerStatus(health=fleet.PeerHealth(reachable=reachable)),
    )


def make_node(name: str, *, epoch: int | None = None, hub_reachable: bool = True) -> fleet.FleetNode:
    """Make a node; one with an epoch leads, or did."""
    leading = None if epoch is None else fleet.Leading(epoch=epoch, hub_reachable=hub_reachable)
    return fleet.FleetNode(
        metadata=meta.ObjectMeta(name=name, namespace=names.NAMESPACE), status=fleet.FleetNodeStatus(leading=leading)
    )


class Resolver:
    """Answers as a worker process does, from a table filled by the test."""

    def __init__(self) -> None:
        self.table = table.Table(server=SERVER)
        self.replica = feed.Replica(Answerer([encode.name(zone_name) for zone_name in names.ZONES]))
        self.generation = 0

    def load(self) -> None:
        self.publish(self.table.snapshot(), snapshot=True)

    def publish(self, changes: Iterable[table.ZoneChange], *, snapshot: bool = False) -> None:
        self.generation += 1
        soa = {
            encode.name(name): encode.soa_content(server=SERVER, zone_name=name, serial=self.generation)
            for name in names.ZONES
        }
        for frame in feed.frames(changes, soa=soa, generation=self.generation, snapshot=snapshot):
            self.replica.apply(frame)

    def put(
        self,
        service: fleet.FleetService,
        *slices: core.EndpointSlice,
        reach: Reach | None = None,
    ) -> None:
        key = ServiceKey(service.spec.namespace, service.spec.name)
        self.table.put(key, zone.service_records(key, service, slices, reach or Reach()))
        self.load()

    def send(self, data: bytes, *, udp: bool = True) -> bytes | None:
        answerer = self.replica.answerer
        return answerer.plain(data, udp=udp) or odd.answer(answerer, data, udp=udp)

    def ask(self, name: str, type_: str = "A", *, udp: bool = True, edns: int = 0) -> dnslib.DNSRecord:
        query = dnslib.DNSRecord.question(name, type_)
        if edns:
            query.add_ar(dnslib.EDNS0(udp_len=edns))
        reply = self.send(bytes(query.pack()), udp=udp)
        assert reply is not None
        answer = dnslib.DNSRecord.parse(reply)
        assert answer.header.id == query.header.id
        return answer


def contents(answer: dnslib.DNSRecord) -> list[str]:
    return sorted(str(record.rdata) for record in answer.rr)


def rcode(answer: dnslib.DNSRecord) -> str:
    return str(dnslib.RCODE.get(answer.header.rcode))


def put(api: FakeApi, collection: str, obj: Any) -> None:
    fields = msgspec.to_builtins(obj)
    metadata = fields.pop("metadata")
    with api.changed:
        api.store((collection, metadata["namespace"], metadata["name"]), {"metadata": metadata, **fields})


def put_service(api: FakeApi, service: fleet.FleetService) -> None:
    put(api, "fleetservices", service)


def put_slice(api: FakeApi, item: core.EndpointSlice) -> None:
    put(api, "endpointslices", item)
