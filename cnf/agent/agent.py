"""The part of cnf that needs the API and other nodes; ``cnf.agent.node`` is the part that does not.

Runs the parts that ``cnf.agent.parts`` builds; every decision is made elsewhere. Pods are wired by what the node
remembers before the API is asked, and nothing is torn down on start or stop.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import threading

import prometheus_client

from cnf.agent import metrics, parts
from cnf.agent.node import LocalNode
from cnf.agent.settings import AgentSettings
from cnf.agent.wakes import AgentSource
from cnf.attach import errors as attach_errors
from cnf.netlink import errors as netlink_errors
from cnf.tunnel import errors as tunnel_errors
from cnf.tunnel.wireguard import key
from fleetboard.kube import client as kube_client
from fleetboard.kube import errors as kube_errors
from fleetboard.kube import metrics as kube_metrics
from fleetboard.runtime import process, server

log = logging.getLogger(__name__)

COLLECT_S = 30.0
COLLECT_FIRST_S = 2.0
"""Delay of the first collection.

After a reboot the sweep at the start has found every attachment dead once. This second look frees their addresses,
which new pods may be waiting for.
"""


class Agent:
    """The threads and metrics of one node's parts."""

    def __init__(self, shared: parts.SharedParts, controllers: parts.Controllers) -> None:
        self._shared, self._controllers = shared, controllers
        self._calls = metrics.CniCalls()

    def connect(self) -> None:
        """Listen to the node's own part."""
        self._shared.local_node.listen(
            on_change=functools.partial(self._shared.work_queues.wake, AgentSource.ATTACHMENT),
            on_call=self._calls.count,
            why_no_block=self._controllers.reporter.why_no_block,
        )

    def threads(self) -> process.Threads:
        """Return the threads to run, by name."""
        shared, controllers = self._shared, self._controllers
        workers = parts.build_workers(shared.work_queues, shared.caches, controllers)
        return {
            "garbage-collect attachments": self._collect,
            "tunnel": shared.tunnel.run,
            "session": shared.sessions.run,
            **shared.caches.threads(),
            "leader": self._campaign,
            "watch leader": controllers.tunnel.watch_leader,
            **{f"reconcile {work.value}": worker.run for work, worker in workers.items()},
            **({"startup taint": controllers.startup_taint.run} if shared.settings.startup_taint else {}),
        }

    def collectors(self) -> list[prometheus_client.registry.Collector]:
        """Return what /metrics shows."""
        shared, cni = self._shared, self._shared.local_node.cni
        services, latecomers = self._controllers.services, self._controllers.latecomers
        return [
            *self._calls.collectors,
            metrics.TunnelCollector(shared.tunnel, shared.sessions.prober.states),
            metrics.FirewallCollector(
                services=lambda: services.service_count,
                refused=lambda: len(services.refused),
                dropped=lambda: services.dropped,
            ),
            metrics.NodeCollector(
                usage=lambda: (cni.usage().used, cni.usage().free),
                attachments=lambda: len(cni.attachments()),
                leading=lambda: shared.elector.leading,
                epoch=lambda: shared.elector.epoch,
                latecomers=lambda: (latecomers.waiting, latecomers.attached),
            ),
        ]

    def unready_reason(self) -> str | None:
        """Return why a pod can't be attached and carried here yet, or None."""
        return self._controllers.reporter.unready_reason()

    def _campaign(self, stop: threading.Event) -> None:
        work_queues = self._shared.work_queues
        work_queues.wake(AgentSource.START)
        changed = functools.partial(work_queues.wake, AgentSource.LEADERSHIP)
        self._shared.elector.run(stop, on_start=changed, on_stop=changed)

    def _collect(self, stop: threading.Event) -> None:
        pause_s = COLLECT_FIRST_S
        while not stop.wait(pause_s):
            pause_s = COLLECT_S
            try:
                self._shared.local_node.cni.collect()
            except (attach_errors.AttachError, netlink_errors.NetlinkError) as err:
                # A full disk, a kernel out of memory: the next round tries again, and pods are carried meanwhile.
                log.error("could not garbage-collect attachments, retrying", extra={"error": str(err)})


def run(settings: AgentSettings, local_node: LocalNode, crew: process.Crew) -> int:
    """Run besides ``local_node``, whose threads are in ``crew`` already, until stopped; return the exit status."""
    try:
        client = kube_client.Client.in_cluster(user_agent="fleetboard-cnf")
        shared = parts.build_shared(settings, local_node, client, key.ensure(settings.state_dir))
        agent = Agent(shared, parts.build_controllers(shared))
        agent.connect()
    except (kube_errors.KubeError, tunnel_errors.TunnelError, OSError) as err:
        log.error("%s", err)
        return 1
    registry = prometheus_client.CollectorRegistry()
    kube_metrics.register(registry)
    for collector in agent.collectors():
        registry.register(collector)
    observed = server.serve(
        port=settings.observe_port,
        registry=registry,
        unhealthy_reason=lambda: None,
        unready_reason=agent.unready_reason,
    )
    try:
        crew.start(agent.threads())
        log.info("running", extra={"version": importlib.metadata.version("fleetboard")})
        return crew.wait()
    finally:
        observed.close()
