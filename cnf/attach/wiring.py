"""Plans a pod's two ends as messages for the kernel (section 4 of docs/design.md).

Plans are pure functions of a record and the node's network, and their messages are idempotent. Wiring, wiring again
after a restart and changing a live interface are the same plan.

In the pod, the route to the fleet goes by the node's address, which is a permanent neighbour. A second route with the
worst metric is ``unreachable`` and bound to no device. It stays while the interface is missing, so that no traffic for
the fleet leaves unencrypted by eth0.
"""

from __future__ import annotations

import dataclasses
import ipaddress

from cnf.attach import identity, records
from cnf.attach.node_network.network import NodeNetwork
from cnf.netlink import addresses, links, neighbours, routes, wire
from fleetboard.model.addresses import Address, Network

_ROUTER = {links.FORWARDING: 1, links.RP_FILTER: 1, links.SEND_REDIRECTS: 0, links.ACCEPT_REDIRECTS: 0}


@dataclasses.dataclass(frozen=True, slots=True)
class Ends:
    """Both ends of one attachment."""

    near: links.VethEnd
    """The end in cnf's namespace."""
    far: links.VethEnd
    """The end in the pod's namespace."""
    alias: str
    paths: tuple[tuple[Address, Address], ...]
    """The pod's address and the node's, for each family."""
    fleet: tuple[Network, ...]

    def at(self, near: int, far: int) -> Ends:
        """Return the same ends with the indexes that the kernel gave them."""
        return dataclasses.replace(
            self, near=dataclasses.replace(self.near, index=near), far=dataclasses.replace(self.far, index=far)
        )


def plan_ends(record: records.Record, network: NodeNetwork) -> Ends:
    """Plan the ends of ``record`` in the node's current network."""
    pod_addresses = record.parse_addresses()
    return Ends(
        near=links.VethEnd(
            name=identity.veth_name(*record.key),
            mac=identity.gateway_mac(*record.key),
            mtu=network.mtu,
            index=identity.near_index(pod_addresses[0]),
        ),
        far=links.VethEnd(
            name=record.interface, mac=record.mac, mtu=network.mtu, index=record.index or identity.POD_INDEX
        ),
        alias=identity.alias(*record.key, pod_addresses, record.pod_uid),
        paths=tuple((address, network.gateway(address.version)) for address in pod_addresses),
        fleet=network.fleet,
    )


def plan_near(ends: Ends) -> list[wire.Message]:
    """Return the messages that wire cnf's end: a router's port with one host behind it."""
    index = ends.near.index
    plan = [links.set_no_link_local(index), links.set_inet(index, _ROUTER), links.set_up(index, alias=ends.alias)]
    for pod, node in ends.paths:
        plan.append(neighbours.put(index, pod, ends.far.mac))
        plan.append(routes.Route(_host(pod), index=index, source=node).put())
    return plan


def plan_far(ends: Ends) -> list[wire.Message]:
    """Return the messages that wire the pod's end."""
    index = ends.far.index
    plan = [*plan_fence(ends), links.set_no_link_local(index), links.set_up(index, alias=ends.alias)]
    for pod, node in ends.paths:
        plan.append(addresses.put(index, pod))
        plan.append(neighbours.put(index, node, ends.near.mac))
        plan.append(routes.Route(_host(node), index=index, source=pod).put())
        plan += [route.put() for route in fleet_routes(ends) if route.destination.version == pod.version]
    return plan


def fleet_routes(ends: Ends) -> list[routes.Route]:
    """Return the pod's routes to the fleet."""
    return [
        routes.Route(cidr, index=ends.far.index, gateway=node, source=pod)
        for pod, node in ends.paths
        for cidr in ends.fleet
        if cidr.version == pod.version
    ]


def plan_fence(ends: Ends) -> list[wire.Message]:
    """Return the messages that keep the pod from sending to the fleet by another interface.

    They come first, so there is no gap.
    """
    return [routes.Route(cidr, metric=routes.WORST).put() for cidr in ends.fleet]


def plan_unfence(fleet: tuple[Network, ...]) -> list[wire.Message]:
    """Return the messages that undo ``plan_fence`` in a pod that loses its interface."""
    return [routes.Route(cidr, metric=routes.WORST).delete() for cidr in fleet]


def plan_mtu(ends: Ends) -> tuple[wire.Message, wire.Message]:
    """Return the messages that change the MTU of both ends, the near one's first."""
    return links.set_mtu(ends.near.index, ends.near.mtu), links.set_mtu(ends.far.index, ends.far.mtu)


def plan_node(network: NodeNetwork) -> list[wire.Message]:
    """Return the messages that put the node's addresses on ``lo``.

    They come before all routes, which name the addresses as their source.
    """
    return [
        links.set_up(links.LOOPBACK),
        *(addresses.put(links.LOOPBACK, address) for address in network.gateways()),
    ]


def _host(address: Address) -> Network:
    return ipaddress.ip_network(address)
