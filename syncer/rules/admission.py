"""Decides whether the hub admits a member or one of its exports, and with which message it refuses.

Invariant: a member that was admitted stays admitted. A later problem is reported as ``Degraded``, because only a dead
data path may take a cluster's traffic away (docs/design.md section 6).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

import msgspec

from fleetboard.model import addresses, fleet, marks, meta, trust
from fleetboard.model.keys import ServiceKey
from syncer.rules.clusterset_settings import ClustersetSettings

ADMITTED = "Admitted"
DEGRADED = "Degraded"
STALE = "Stale"
TYPES = (ADMITTED, DEGRADED, STALE)
"""Condition types that syncer-hub writes on a Peer."""

MAX_BLOCKS = 6
"""Most blocks of a member in a family: 1 + 2 + 4 + ... /22, a /16 in all, so that no member uses up the fleet."""
MAX_REPORTED_CIDRS = 64
MAX_PORTS = 256
"""Most ports of an export. Kubernetes has no limit; a merge holds every exporter's ports, in at most 1.5 MiB."""
MAX_EXPORT_BYTES = 64 * 1024
"""Most bytes of an export's spec as stored, nearly all of them annotations: the merge and each copy hold them."""
_ESCAPED = ("<", ">", "&", "\u2028", "\u2029")
"""Characters that Go's JSON, which API servers store, writes in six bytes each."""

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_WORD = re.compile(r"[A-Za-z0-9]{0,63}")


@dataclasses.dataclass(frozen=True, slots=True)
class AdmissionDecision:
    """The hub's decision about one report.

    Attributes:
        admitted: Whether the member takes part.
        reason: CamelCase reason of the problem, or "Admitted".
        message: The message for it.
        accepted: Whether the report is the member's own and well-formed, so that its heartbeat counts.
        cluster_uid: UID to pin; empty until the member is admitted.
        blocks: How many blocks the member gets in each family.
    """

    admitted: bool
    reason: str
    message: str
    accepted: bool
    cluster_uid: str = ""
    blocks: int = 0


def admit(peer: fleet.Peer, report: fleet.PeerReport, clusterset: ClustersetSettings) -> AdmissionDecision:
    """Decide on a report, which is in the member's own namespace, given the member's Peer."""
    pinned = peer.status.cluster_uid
    problem = _find_problem(peer, report.spec, clusterset)
    if problem is None:
        uid = pinned or report.spec.cluster_uid
        message = f"cluster {peer.spec.cluster!r} takes part in the clusterset"
        blocks = min(report.spec.blocks_wanted, MAX_BLOCKS)
        return AdmissionDecision(True, ADMITTED, message, accepted=True, cluster_uid=uid, blocks=blocks)
    reason, message = problem
    was_admitted = bool(pinned) and is_admitted(peer)
    own = reason in ("CIDROverlap", "PathTooSmall")
    return AdmissionDecision(
        was_admitted, reason, message, accepted=own, cluster_uid=pinned, blocks=1 if was_admitted else 0
    )


def is_admitted(peer: fleet.Peer) -> bool:
    """Return whether the hub admitted this member."""
    condition = meta.find_condition(peer.status.conditions, ADMITTED)
    return condition is not None and condition.status == "True"


def conditions(decision: AdmissionDecision | None, *, stale_s: float | None) -> list[meta.Condition]:
    """Return a member's conditions; without a decision it has not reported yet."""
    if decision is None:
        message = "the cluster has not reported to the hub yet"
        return [meta.Condition(type=ADMITTED, status="Unknown", reason="NotJoined", message=message)]
    is_problem = decision.reason != ADMITTED
    shown = [
        meta.Condition(
            type=ADMITTED,
            status="True" if decision.admitted else "False",
            reason=ADMITTED if decision.admitted else decision.reason,
            message=ADMITTED if decision.admitted and is_problem else decision.message,
        )
    ]
    if decision.admitted:
        shown.append(
            meta.Condition(
                type=DEGRADED,
                status="True" if is_problem else "False",
                reason=decision.reason if is_problem else "AsExpected",
                message=decision.message if is_problem else "the cluster's reports are in order",
            )
        )
    return [*shown, stale(stale_s)]


def stale(stale_s: float | None) -> meta.Condition:
    """Return the Stale condition of a member; ``stale_s`` is None while it reports in time."""
    if stale_s is None:
        return meta.Condition(type=STALE, status="False", reason="Reporting", message="the cluster reports in time")
    # No growing number: an unchanged state must give an unchanged condition.
    message = f"no report for {stale_s:.0f} s or longer: its endpoints stay as they are"
    return meta.Condition(type=STALE, status="True", reason="NoHeartbeat", message=message)


def refuse_export(peer: fleet.Peer, exported: fleet.ExportedService) -> str | None:
    """Return why this export is left out of its service, or None when it is not."""
    spec = exported.spec
    if exported.metadata.name != ServiceKey(spec.namespace, spec.name).dotted:
        return f"object name {exported.metadata.name!r} is not {spec.namespace}.{spec.name}"
    problem = refuse_service(peer, namespace=spec.namespace, name=spec.name)
    if problem is not None:
        return problem
    problem = refuse_size(spec)
    if problem is not None:
        return problem
    if spec.type not in ("ClusterSetIP", "Headless"):
        return f"spec.type {spec.type!r} is not ClusterSetIP or Headless"
    if spec.session_affinity not in ("None", "ClientIP"):
        return f"spec.sessionAffinity {spec.session_affinity!r} is not None or ClientIP"
    if not 0 <= spec.session_affinity_timeout_s <= 86400:
        return f"spec.sessionAffinityTimeoutS {spec.session_affinity_timeout_s} is not between 0 and 86400"
    # Any word: a newer Kubernetes may know more values, and a reader that does not know one ignores it.
    for field, value in (
        ("internalTrafficPolicy", spec.internal_traffic_policy),
        ("trafficDistribution", spec.traffic_distribution),
    ):
        if not _WORD.fullmatch(value):
            return f"spec.{field} {value[:63]!r} is not a word of at most 63 letters and digits"
    unknown = [family for family in spec.ip_families if family not in ("IPv4", "IPv6")]
    if unknown or len(set(spec.ip_families)) != len(spec.ip_families):
        return f"spec.ipFamilies {spec.ip_families[:4]} is not IPv4, IPv6 or both, each once"
    return refuse_ports(spec.ports)


def refuse_size(spec: fleet.ExportedServiceSpec) -> str | None:
    """Return why an export is too large, or None when it is not."""
    if len(spec.ports) > MAX_PORTS:
        return f"spec.ports has {len(spec.ports)} entries: expected at most {MAX_PORTS}"
    size = _stored_bytes(spec)
    if size > MAX_EXPORT_BYTES:
        return (
            f"the export has {size} bytes with its exported labels and annotations (each <, > and & takes 6): "
            f"expected at most {MAX_EXPORT_BYTES}"
        )
    return None


def _stored_bytes(spec: fleet.ExportedServiceSpec) -> int:
    content = msgspec.json.encode(spec)
    escaped = ((character.encode(), 6 - len(character.encode())) for character in _ESCAPED)
    return len(content) + sum(content.count(encoded) * extra for encoded, extra in escaped)


def refuse_service(peer: fleet.Peer, *, namespace: str, name: str) -> str | None:
    """Return why this member may not export ``namespace``/``name``, or None when it may."""
    for field, value in (("namespace", namespace), ("service name", name)):
        if not _DNS_LABEL.fullmatch(value):
            return f"{field} {value!r} is not a DNS label"
    allowed = peer.spec.export_namespaces
    if "*" in allowed or namespace in allowed:
        return None
    return f"cluster {peer.spec.cluster!r} may not export from namespace {namespace!r}: the hub allows {allowed}"


def _find_problem(
    peer: fleet.Peer, spec: fleet.PeerReportSpec, clusterset: ClustersetSettings
) -> tuple[str, str] | None:
    pinned = peer.status.cluster_uid
    if pinned and spec.cluster_uid and spec.cluster_uid != pinned:
        return "ClusterNameTaken", (
            f"cluster name {peer.spec.cluster!r} is used by two clusters: {pinned} joined first and is served, "
            f"{spec.cluster_uid} is not"
        )
    malformed = _malformed(peer, spec)
    if malformed is not None:
        return "MalformedReport", malformed
    try:
        networks = [addresses.parse_cidr(text, field="networkCidrs") for text in spec.network_cidrs]
    except addresses.AddressRefusedError as err:
        return "MalformedReport", str(err)
    return _overlap(networks, clusterset.networks) or _narrow_path(spec.nodes, clusterset.mtu)


def _malformed(peer: fleet.Peer, spec: fleet.PeerReportSpec) -> str | None:
    if spec.cluster != peer.spec.cluster:
        return f"spec.cluster {spec.cluster!r} is not the member's name {peer.spec.cluster!r}"
    if not spec.cluster_uid or len(spec.cluster_uid) > 64:
        return f"spec.clusterUid {spec.cluster_uid[:64]!r} is not the UID of a namespace: expected 1 to 64 characters"
    if spec.blocks_wanted < 1:
        return f"spec.blocksWanted {spec.blocks_wanted} is not a number of blocks: expected 1 or more"
    if len(spec.network_cidrs) > MAX_REPORTED_CIDRS:
        return f"spec.networkCidrs has {len(spec.network_cidrs)} entries: expected at most {MAX_REPORTED_CIDRS}"
    return None


def _overlap(
    networks: Sequence[addresses.Network], fleet_networks: Iterable[addresses.Network]
) -> tuple[str, str] | None:
    for fleet_network in fleet_networks:
        clashing = addresses.overlaps(networks, fleet_network)
        if clashing:
            listed = ", ".join(str(network) for network in clashing)
            return "CIDROverlap", (
                f"the cluster's networks {listed} overlap the fleet CIDR {fleet_network}: "
                f"install the hub with another fleet CIDR, or this cluster with other pod and service CIDRs"
            )
    return None


def _narrow_path(nodes: Iterable[fleet.ReportedNode], mtu: int) -> tuple[str, str] | None:
    for node in nodes:
        if 0 < node.mtu < mtu:
            return "PathTooSmall", (
                f"node {node.name[:63]!r} can carry at most {node.mtu} bytes inside the tunnel (the MTU of its pod "
                f"network less WireGuard's headers), the fleet's MTU is {mtu}: set `mtu` of the hub's chart to "
                f"{node.mtu}; it can't be raised again"
            )
    return None


def refuse_ports(ports: Sequence[fleet.ServicePort]) -> str | None:
    """Return what is wrong with the first invalid port, or None."""
    for port in ports:
        if not trust.is_port(port.port):
            return f"port {port.port} is not between 1 and 65535"
        if port.protocol not in ("TCP", "UDP", "SCTP"):
            return f"protocol {port.protocol!r} of port {port.port} is not TCP, UDP or SCTP"
        if port.name and not _DNS_LABEL.fullmatch(port.name):
            return f"name {port.name[:64]!r} of port {port.port} is not a DNS label"
        # As Kubernetes demands in Services and EndpointSlices; the merge counts a port's bytes without escapes.
        if port.app_protocol and not marks.is_qualified_name(port.app_protocol):
            return (
                f"appProtocol {port.app_protocol[:64]!r} of port {port.port} is not a qualified name: "
                "expected one like http or example.com/protocol"
            )
    return None
