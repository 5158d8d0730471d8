"""Builds an agent's parts, each from those that are there already."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import threading
from collections.abc import Callable, Mapping, Sequence

from cnf.agent.caches import Caches
from cnf.agent.gate import TunnelGate
from cnf.agent.node import LocalNode
from cnf.agent.report import NodeReporter
from cnf.agent.settings import AgentSettings
from cnf.agent.wakes import AgentSource, AgentWork, WorkQueues
from cnf.controllers.blocks.controller import BlockController
from cnf.controllers.latecomers.controller import LatecomerController
from cnf.controllers.services import PendingChanges, ServiceController
from cnf.controllers.startup_taint import StartupTaintController
from cnf.controllers.status import StatusController
from cnf.controllers.tunnel import TunnelController
from cnf.tunnel.session.session import SessionRunner
from cnf.tunnel.wireguard import key
from cnf.tunnel.wireguard.tunnel import Tunnel
from fleetboard.kube import client as kube_client
from fleetboard.kube import controller, events, lease

LEASE = "cnf-leader"
TERM_S, DEADLINE_S, PERIOD_S = 6.0, 4.0, 1.0
"""Shorter than Kubernetes' own: the API fences a takeover, and a node that lost it must not hold the cluster back."""
REST_FACTOR = 2.0
"""A worker rests twice as long as its work took: planning all of 10 000 services takes half a second."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SharedParts:
    """What several controllers use."""

    settings: AgentSettings
    local_node: LocalNode
    client: kube_client.Client
    pending: PendingChanges
    work_queues: WorkQueues
    caches: Caches
    recorder: events.Recorder
    elector: lease.Elector
    tunnel: Tunnel
    sessions: SessionRunner


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Controllers:
    """One of each kind, and the report that they share."""

    reporter: NodeReporter
    services: ServiceController
    tunnel: TunnelController
    gate: TunnelGate
    blocks: BlockController
    status: StatusController
    latecomers: LatecomerController
    startup_taint: StartupTaintController


def build_shared(
    settings: AgentSettings, local_node: LocalNode, client: kube_client.Client, private_key: key.PrivateKey
) -> SharedParts:
    """Build what the controllers use; nothing runs yet."""
    pending = PendingChanges()
    work_queues = WorkQueues(pending.recorders)
    tunnel = Tunnel(private_key=private_key)
    elector = lease.Elector(
        client,
        namespace=settings.namespace,
        name=LEASE,
        identity=settings.node,
        duration_s=TERM_S,
        deadline_s=DEADLINE_S,
        period_s=PERIOD_S,
    )
    return SharedParts(
        settings=settings,
        local_node=local_node,
        client=client,
        pending=pending,
        work_queues=work_queues,
        caches=Caches(client, settings.namespace, node=settings.node, on_change=work_queues.wake),
        recorder=events.Recorder(client, "cnf"),
        elector=elector,
        tunnel=tunnel,
        sessions=SessionRunner(
            tunnel, outbid=elector.outbid, on_isolation=functools.partial(work_queues.wake, AgentSource.ISOLATION)
        ),
    )


def build_controllers(parts: SharedParts) -> Controllers:
    """Build the controllers; nothing runs yet."""
    services = _build_service_controller(parts)
    tunnel = _build_tunnel_controller(parts)
    reporter = NodeReporter(
        settings=parts.settings,
        cni=parts.local_node.cni,
        caches=parts.caches,
        tunnel=parts.tunnel,
        sessions=parts.sessions,
        elector=parts.elector,
        services=services,
    )
    return Controllers(
        reporter=reporter,
        services=services,
        tunnel=tunnel,
        gate=TunnelGate(
            tunnel_controller=tunnel,
            service_controller=services,
            firewall_restored=parts.local_node.taken_over.firewall,
        ),
        blocks=_build_block_controller(parts),
        status=_build_status_controller(parts, reporter),
        latecomers=_build_latecomer_controller(parts),
        startup_taint=_build_startup_taint_controller(parts, reporter),
    )


def build_workers(
    work_queues: WorkQueues, caches: Caches, controllers: Controllers
) -> Mapping[AgentWork, controller.Controller[str]]:
    """Return the loop of each kind of work; each takes its work from the queue that ``work_queues`` fills."""
    steps: Mapping[AgentWork, tuple[Callable[[str], float | None], Sequence[threading.Event], float]] = {
        AgentWork.TUNNEL: (controllers.gate.reconcile, caches.mesh_synced, REST_FACTOR),
        AgentWork.SERVICES: (controllers.services.reconcile, caches.services_synced, REST_FACTOR),
        AgentWork.BLOCKS: (controllers.blocks.reconcile, caches.claims_synced, REST_FACTOR),
        AgentWork.STATUS: (controllers.status.reconcile_node, caches.mesh_synced, 0.0),
        AgentWork.ATTACHMENTS: (controllers.status.reconcile_attachments, (), REST_FACTOR),
        AgentWork.LATECOMERS: (controllers.latecomers.reconcile, caches.pods_synced, 0.0),
    }
    return {
        work: controller.Controller(
            work.value, reconcile, wait_for=synced, rest_factor=rest_factor, queue=work_queues.queue(work)
        )
        for work, (reconcile, synced, rest_factor) in steps.items()
    }


def _build_service_controller(parts: SharedParts) -> ServiceController:
    return ServiceController(
        node=parts.settings.node,
        cluster=parts.settings.cluster,
        caches=parts.caches,
        pending=parts.pending,
        firewall_writer=parts.local_node.firewall_writer,
        isolated=lambda: parts.sessions.isolated,
    )


def _build_tunnel_controller(parts: SharedParts) -> TunnelController:
    return TunnelController(
        node=parts.settings.node,
        cluster=parts.settings.cluster,
        caches=parts.caches,
        tunnel=parts.tunnel,
        sessions=parts.sessions,
        elector=parts.elector,
        set_network=parts.local_node.cni.set_network,
        work_queues=parts.work_queues,
        tunnel_exists=parts.local_node.taken_over.same_namespace,
    )


def _build_block_controller(parts: SharedParts) -> BlockController:
    return BlockController(
        parts.client,
        namespace=parts.settings.namespace,
        cluster=parts.settings.cluster,
        caches=parts.caches,
        leading=lambda: parts.elector.leading,
        recorder=parts.recorder,
    )


def _build_status_controller(parts: SharedParts, reporter: NodeReporter) -> StatusController:
    return StatusController(
        parts.client,
        namespace=parts.settings.namespace,
        node=parts.settings.node,
        version=importlib.metadata.version("fleetboard"),
        report=reporter.report,
        attachments=parts.local_node.cni.attachments,
        fleet_node=reporter.own_node,
    )


def _build_latecomer_controller(parts: SharedParts) -> LatecomerController:
    return LatecomerController(
        netns_dir=parts.settings.netns_dir,
        pods=lambda: parts.caches.pods,
        attachments=parts.local_node.cni.attachments,
        call=parts.local_node.cni.calls.call,
        recorder=parts.recorder,
    )


def _build_startup_taint_controller(parts: SharedParts, reporter: NodeReporter) -> StartupTaintController:
    return StartupTaintController(
        parts.client,
        node=parts.settings.node,
        conf_dir=parts.settings.cni_conf_dir,
        state_dir=parts.settings.state_dir,
        unready_reason=reporter.unready_reason,
    )
