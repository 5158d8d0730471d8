"""Reports this cluster to the hub, every ten seconds and at each change, and writes the hub's decision here.

Invariant: nothing is written to the hub while its Peer with this cluster's name belongs to another cluster.
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fleetboard.kube import errors
from fleetboard.kube.client import Client
from fleetboard.kube.reflector import Mirrors, Reflector
from fleetboard.model import core, fleet, meta, names, resource, times
from fleetboard.model.addresses import Network
from syncer.member.clusterset import Clusterset
from syncer.member.join.credential import Credential, check_peer
from syncer.member.join.errors import HubUnreachableError, JoinError
from syncer.member.report import plan
from syncer.member.settings import FIELD_MANAGER
from syncer.member.wakes import MemberBus, MemberSource

log = logging.getLogger(__name__)

LEADER_LEASE = "cnf-leader"
HEARTBEAT_S = 10.0
DECISION_S = 5.0
"""How long a hub that refused this cluster before may take to see its new report."""
SETTLE_S = 0.05
"""How long changes are collected before one report covers them."""
NETWORKS_S = 300.0
"""Between two looks at this cluster's networks, which rarely change: each lists all nodes."""
RETRY_S = 1.0
"""After a report failed or was refused: until the next one, the hub may call this cluster stale."""


class ReportController:
    """Writes the PeerReport, on the hub and here.

    Attributes:
        joined: Whether the hub admits this cluster, as last received.
        last_sent: Monotonic time of the last report that the hub accepted.
    """

    def __init__(
        self,
        local: Client,
        hub: Client,
        *,
        bus: MemberBus,
        credential: Credential,
        clusterset: Clusterset,
        namespace: str,
        cluster_uid: str,
        networks: Callable[[], Sequence[Network]],
        version: str,
    ) -> None:
        self._local, self._hub, self._bus = local, hub, bus
        self._credential, self._join = credential, credential.join
        self._clusterset, self._namespace = clusterset, namespace
        self._cluster_uid, self._networks, self._version = cluster_uid, networks, version
        self._unreachable = False
        self._changed = threading.Event()
        self.nodes = Reflector(local, resource.FLEET_NODES, notify=self.wake, namespace=namespace)
        self.lease = Reflector(
            local,
            resource.LEASES,
            notify=self.wake,
            namespace=namespace,
            field_selector=f"metadata.name={LEADER_LEASE}",
        )
        self.own = Reflector(local, resource.PEER_REPORTS, namespace=namespace)
        self.claims = Reflector(local, resource.CLAIMS, notify=self.wake, namespace=namespace)
        self.joined = False
        self.last_sent = -float("inf")
        self._sent: fleet.PeerReportSpec | None = None
        self._lease: core.Lease | None = None
        self._read_networks: tuple[float, Sequence[Network]] | None = None

    @property
    def reflectors(self) -> list[Mirrors]:
        """The reflectors of this cluster's API."""
        return [self.nodes, self.lease, self.own, self.claims]

    def wake(self, _key: object = None) -> None:
        """Report soon: something that the report depends on may have changed."""
        self._changed.set()

    def run(self, stop: threading.Event) -> None:
        """Report until ``stop``.

        Raises:
            JoinError: the hub refuses this cluster, which never took part before.
        """
        for event in [reflector.synced for reflector in self.reflectors]:
            while not event.wait(0.1):
                if stop.is_set():
                    return
        was_joined = self._was_joined()
        first_sent = 0.0
        while not stop.is_set():
            self._changed.clear()
            try:
                self._write_reports()
                first_sent = first_sent or (time.monotonic() if self._sent is not None else 0.0)
                decision = self._write_decision()
            except errors.KubeError as err:
                log.warning("could not send the report", extra={"error": str(err)})
                self._unreachable = self._unreachable or isinstance(err, errors.UnreachableError)
                stop.wait(RETRY_S)
                continue
            except JoinError as err:
                if not was_joined:
                    raise
                self._write_refusal(err)
                stop.wait(HEARTBEAT_S)
                continue
            was_joined = was_joined or self.joined
            refused = decision is not None and decision.status == "False" and not was_joined
            if refused and decision is not None and first_sent and time.monotonic() - first_sent > DECISION_S:
                raise HubDecisionError(decision.reason, decision.message)
            self._wait(stop, RETRY_S if refused else HEARTBEAT_S / 2)

    def _wait(self, stop: threading.Event, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not stop.is_set() and time.monotonic() < deadline:
            if self._changed.wait(0.2):
                # When the leader changes, several nodes change at once; one report covers them all.
                stop.wait(SETTLE_S)
                return

    def _write_reports(self) -> None:
        peer = self._clusterset.peer(self._join.cluster)
        if not self._clusterset.is_synced:
            return
        check_peer(peer, join=self._join, cluster_uid=self._cluster_uid)
        spec = self._plan()
        due = time.monotonic() - self.last_sent >= HEARTBEAT_S - SETTLE_S
        if spec == self._sent and not due:
            return
        stamped = plan.with_heartbeat(spec, times.now())
        self._hub.apply(
            resource.PEER_REPORTS, self._object(stamped, self._join.member.namespace), manager=FIELD_MANAGER
        )
        self._sent, self.last_sent = spec, time.monotonic()
        if self._unreachable:
            self._unreachable = False
            self._bus.wake(MemberSource.HUB_RETURNED)
        current = self.own.get(f"{self._namespace}/{self._join.cluster}")
        if current is None or current.spec != spec:
            self._local.apply(resource.PEER_REPORTS, self._object(spec, self._namespace), manager=FIELD_MANAGER)

    def _plan(self) -> fleet.PeerReportSpec:
        self._lease = plan.lease_to_report(self._lease, self.lease.get(f"{self._namespace}/{LEADER_LEASE}"))
        now = time.monotonic()
        if self._read_networks is None or now - self._read_networks[0] > NETWORKS_S:
            self._read_networks = (now, self._networks())
        return plan.plan(
            list(self.nodes.store.values()),
            self._lease,
            cluster=self._join.cluster,
            cluster_uid=self._cluster_uid,
            networks=self._read_networks[1],
            version=self._version,
            quarantined=plan.quarantined_blocks(
                list(self.claims.store.values()), now=datetime.datetime.now(datetime.UTC)
            ),
        )

    def _object(self, spec: fleet.PeerReportSpec, namespace: str) -> fleet.PeerReport:
        metadata = meta.ObjectMeta(name=self._join.cluster, namespace=namespace)
        return fleet.PeerReport(metadata=metadata, spec=spec)

    def _write_decision(self) -> meta.Condition | None:
        """Copy the hub's decision to this cluster's own PeerReport and return it."""
        decision = plan.admission(self._clusterset.peer(self._join.cluster))
        problem = self._credential.problem
        if problem is not None and not isinstance(problem, HubUnreachableError):
            condition = plan.refused(problem.reason, str(problem))
        elif decision is None and not self._clusterset.is_synced:
            return None
        else:
            condition = plan.joined(decision)
        self.joined = condition.status == "True"
        current = self.own.get(f"{self._namespace}/{self._join.cluster}")
        write_joined(self._local, condition, cluster=self._join.cluster, namespace=self._namespace, current=current)
        return decision

    def _write_refusal(self, err: JoinError) -> None:
        """Record that the hub refuses a cluster that took part: its traffic continues with what it has."""
        log.warning("the hub refused this cluster's report", extra={"reason": err.reason, "error": str(err)})
        self.joined = False
        current = self.own.get(f"{self._namespace}/{self._join.cluster}")
        condition = plan.refused(err.reason, str(err))
        write_joined(self._local, condition, cluster=self._join.cluster, namespace=self._namespace, current=current)

    def _was_joined(self) -> bool:
        current = self.own.get(f"{self._namespace}/{self._join.cluster}")
        condition = meta.find_condition(current.status.conditions, plan.JOINED) if current is not None else None
        return condition is not None and condition.status == "True"


class HubDecisionError(JoinError):
    """The hub decided against this cluster."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"the hub refuses this cluster: {message}")
        self.reason = reason


def write_joined(
    local: Client, condition: meta.Condition, *, cluster: str, namespace: str, current: fleet.PeerReport | None
) -> None:
    """Write the Joined condition into this cluster's own PeerReport, and create that if it is missing."""
    name: dict[str, Any] = {"name": cluster, "namespace": namespace}
    if current is None:
        current = local.find(resource.PEER_REPORTS, cluster, namespace)
    if current is None:
        body: Mapping[str, Any] = {"metadata": name, "spec": {"cluster": cluster}}
        current = local.apply(resource.PEER_REPORTS, dict(body), manager=FIELD_MANAGER)
    old = current.status.conditions
    conditions = meta.set_condition(old, condition, now=times.now())
    if conditions != old:
        status = {"metadata": name, "status": {"conditions": msgspec.to_builtins(conditions)}}
        local.apply(resource.PEER_REPORTS, status, manager=FIELD_MANAGER, subresource="status")


def reportable_name(text: str) -> str:
    """Return a valid name to record a refused cluster under, whatever name the user gave it."""
    try:
        return names.parse_cluster_name(text)
    except names.NameRefusedError:
        return "unnamed"
