"""Finds the networks that this cluster uses, as far as its API knows them.

Networks that the API doesn't serve are left out and never guessed; the user may name them.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Sequence

import msgspec

from fleetboard.kube import errors
from fleetboard.kube.client import Client
from fleetboard.model import core, resource
from fleetboard.model.addresses import Network

log = logging.getLogger(__name__)

LIMIT = 64
"""Most networks that the hub accepts in a report."""

_SERVICE_CIDRS = "/apis/networking.k8s.io/v1/servicecidrs"


class _Spec(msgspec.Struct, frozen=True):
    cidrs: list[str] = []


class _ServiceCIDR(msgspec.Struct, frozen=True):
    spec: _Spec = _Spec()


class _ServiceCIDRs(msgspec.Struct, frozen=True):
    items: list[_ServiceCIDR] = []


def discover(local: Client, configured: Sequence[Network]) -> list[Network]:
    """Read this cluster's pod, service and node networks from its API.

    Raises:
        KubeError: the API did not answer.
    """
    nodes, _ = local.list(resource.NODES)
    return collect(configured=configured, service_cidrs=_service_cidrs(local), nodes=nodes)


def collect(
    *, configured: Iterable[Network], service_cidrs: Iterable[Network], nodes: Iterable[core.Node]
) -> list[Network]:
    """Merge adjacent networks; if the hub accepts fewer, keep those that the user named and the largest ones."""
    named = collapse(configured)
    found: list[Network] = list(service_cidrs)
    for node in nodes:
        found += [ipaddress.ip_network(cidr, strict=False) for cidr in node.spec.pod_cidrs]
        found += [
            ipaddress.ip_network(address.address)
            for address in node.status.addresses
            if address.type in ("InternalIP", "ExternalIP")
        ]
    rest = sorted(set(collapse([*found, *named])) - set(named), key=lambda network: network.prefixlen)
    return [*named, *rest][:LIMIT]


def collapse(networks: Iterable[Network]) -> list[Network]:
    """Merge adjacent and overlapping networks of each family."""
    given = list(networks)
    v4 = [network for network in given if isinstance(network, ipaddress.IPv4Network)]
    v6 = [network for network in given if isinstance(network, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(v4), *ipaddress.collapse_addresses(v6)]


def _service_cidrs(local: Client) -> list[Network]:
    try:
        body = local.read(_SERVICE_CIDRS)
    except (errors.NotFoundError, errors.ForbiddenError):
        # Served since Kubernetes 1.33; before that, the user may name the network.
        log.debug("this cluster's API does not serve its service networks")
        return []
    listed = msgspec.json.decode(body, type=_ServiceCIDRs)
    return [ipaddress.ip_network(cidr) for item in listed.items for cidr in item.spec.cidrs]
