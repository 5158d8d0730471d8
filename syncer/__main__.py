"""``python -m syncer``: the child's syncer as a process."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from fleetboard.kube import errors
from fleetboard.kube import metrics as kube_metrics
from fleetboard.kube.client import Client
from fleetboard.model import names
from fleetboard.runtime import logs, process, server
from syncer.member import daemon, metrics, settings
from syncer.member.dns import forwarding
from syncer.member.member import JoinedMember
from syncer.member.probe import controller

log = logging.getLogger(__name__)


def main() -> int:
    """Run until a signal or a failure that only a person can mend; return the exit status."""
    logs.configure("syncer")
    try:
        child = Client.in_cluster(user_agent=daemon.USER_AGENT)
        chosen = settings.read()
        logs.configure("syncer", chosen.log_level)
    except errors.ConfigurationRefusedError as err:
        log.error(str(err))  # noqa: TRY400 - the sentence says all
        return 1
    except ValueError as err:
        log.error(str(err))  # noqa: TRY400 - the sentence says all
        namespace = os.environ.get("NAMESPACE", names.NAMESPACE)
        daemon.record_refusal(child, namespace=namespace, reason="SettingsRefused", message=str(err))
        return 1
    return run(chosen, child)


def run(chosen: settings.MemberSettings, child: Client) -> int:
    """Run with these settings against this cluster's API."""
    part = daemon.Daemon(chosen, child=child)
    registry = CollectorRegistry()
    _register(registry, part)
    observer = server.serve(port=chosen.observe_port, registry=registry, healthy=lambda: None, ready=part.ready)
    threads = part.threads()
    if chosen.dns_configure:
        threads["forwarding"] = part.when_leading(
            forwarding.ForwardingController(child, namespace=chosen.namespace).run
        )
    stop = threading.Event()
    try:
        status = process.run(threads, stop=stop)
    finally:
        observer.close()
    return status or part.exit_status


def _register(registry: CollectorRegistry, part: daemon.Daemon) -> None:
    """Show the metrics; a process that has not joined exports and imports nothing."""

    def of(value: Callable[[JoinedMember], float], otherwise: float = 0) -> Callable[[], float]:
        return lambda: value(part.member) if part.member is not None else otherwise

    gauges = [
        ("fleetboard_exports", "Services that this cluster exports.", of(lambda one: one.exports.services)),
        ("fleetboard_exported_endpoints", "Endpoints of these services.", of(lambda one: one.exports.endpoints)),
        ("fleetboard_imports", "ServiceImports in this cluster.", of(lambda one: one.imports.services)),
        ("fleetboard_joined", "1 while the hub admits this cluster.", of(lambda one: float(one.reporter.joined))),
        (
            "fleetboard_hub_last_contact_seconds",
            "Age of the hub's last answer; infinite before the first.",
            of(lambda one: one.hub_age_s(), math.inf),
        ),
    ]
    kube_metrics.register(registry)
    forwarding.register(registry)
    controller.register(registry)
    metrics.register(registry, gauges, lambda: part.member.imports.dropped() if part.member is not None else {})


if __name__ == "__main__":
    sys.exit(main())
