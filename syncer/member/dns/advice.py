"""What to configure by hand where the cluster's DNS is not a CoreDNS that syncer may change.

Every message can be followed as it is: it has this cluster's addresses.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence

from syncer.member.dns import corefile


class Platform(enum.Enum):
    """What serves DNS in the cluster, as far as it can be recognized."""

    OPENSHIFT = "the OpenShift DNS operator"
    KUBE_DNS = "kube-dns"
    UNKNOWN = "an unknown server"


def advise(platform: Platform, *, address: str, zones: Sequence[str]) -> str:
    """Return how to forward ``zones`` to ``address`` on this platform."""
    listed = " and ".join(zones)
    begin = f"DNS is served by {platform.value}, which Fleetboard does not change. To resolve {listed}, "
    if platform is Platform.OPENSHIFT:
        return f"{begin}run: oc patch dns.operator default --type=merge -p '{_openshift_patch(address, zones)}'"
    if platform is Platform.KUBE_DNS:
        domains = json.dumps({zone: [address] for zone in zones})
        return f"{begin}put into ConfigMap kube-system/kube-dns under stubDomains: {domains}"
    return (
        f"{begin}forward these zones to {address} port 53, UDP and TCP; for CoreDNS by this block:\n"
        f"{corefile.render(zones, address=address)}"
    )


def advise_nodelocal(*, address: str, zones: Sequence[str]) -> str:
    """Return what NodeLocal DNSCache needs: pods ask it first, and it does not send unknown zones to CoreDNS."""
    blocks = " ".join(f"{zone}:53 {{ errors bind __PILLAR__LOCAL__DNS__ forward . {address} }}" for zone in zones)
    return (
        "NodeLocal DNSCache runs here and answers pods before CoreDNS does: put into ConfigMap "
        f"kube-system/node-local-dns, in the form of its other blocks: {blocks}"
    )


def _openshift_patch(address: str, zones: Sequence[str]) -> str:
    server = {"name": "fleetboard", "zones": list(zones), "forwardPlugin": {"upstreams": [address]}}
    return json.dumps({"spec": {"servers": [server]}})
