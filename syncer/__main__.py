"""``python -m syncer``: a member's syncer as a process."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry

from fleetboard.kube import errors
from fleetboard.kube import metrics as kube_metrics
from fleetboard.kube.client import Client
from fleetboard.model import names
from fleetboard.runtime import logs, process, server
from syncer.member import daemon as member_daemon
from syncer.member import metrics
from syncer.member import settings as member_settings
from syncer.member.dns import forwarding
from syncer.member.member import JoinedMember
from syncer.member.probe import controller as probe_controller

log = logging.getLogger(__name__)


def main() -> int:
    """Run until a signal, or a failure that only a person can fix; return the exit status."""
    logs.configure("syncer")
    try:
        local = Client.in_cluster(user_agent=member_daemon.USER_AGENT)
        settings = member_settings.read()
        logs.configure("syncer", settings.log_level)
    except errors.ConfigurationRefusedError as err:
        log.error("%s", err)
        return 1
    except ValueError as err:
        log.error("%s", err)
        namespace = os.environ.get("NAMESPACE", names.NAMESPACE)
        member_daemon.record_refusal(local, namespace=namespace, reason="SettingsRefused", message=str(err))
        return 1
    return run(settings, local)


def run(settings: member_settings.MemberSettings, local: Client) -> int:
    """Run with these settings against this cluster's API."""
    daemon = member_daemon.Daemon(settings, local=local)
    registry = CollectorRegistry()
    _register(registry, daemon)
    observer = server.serve(
        port=settings.observe_port,
        registry=registry,
        unhealthy_reason=lambda: None,
        unready_reason=daemon.unready_reason,
    )
    threads = daemon.threads()
    if settings.dns_configure:
        threads["forwarding"] = daemon.when_holding(
            forwarding.ForwardingController(local, namespace=settings.namespace).run
        )
    stop = threading.Event()
    try:
        status = process.run(threads, stop=stop)
    finally:
        observer.close()
    return status or daemon.exit_status


def _register(registry: CollectorRegistry, daemon: member_daemon.Daemon) -> None:
    """Register the metrics; a process that has not joined exports and imports nothing."""

    def of(value: Callable[[JoinedMember], float], otherwise: float = 0) -> Callable[[], float]:
        return lambda: value(daemon.member) if daemon.member is not None else otherwise

    gauges = [
        (
            "fleetboard_exports",
            "Services that this cluster exports.",
            of(lambda member: member.export_controller.service_count),
        ),
        (
            "fleetboard_exported_endpoints",
            "Endpoints of these services.",
            of(lambda member: member.export_controller.endpoints),
        ),
        (
            "fleetboard_imports",
            "ServiceImports in this cluster.",
            of(lambda member: member.import_controller.service_count),
        ),
        ("fleetboard_joined", "1 while the hub admits this cluster.", of(lambda m: float(m.report_controller.joined))),
        (
            "fleetboard_hub_last_contact_seconds",
            "Age of the hub's last answer; infinite before the first.",
            of(lambda member: member.hub_age_s(), math.inf),
        ),
    ]

    def refused() -> Mapping[str, int]:
        return daemon.member.import_controller.dropped() if daemon.member is not None else {}

    kube_metrics.register(registry)
    forwarding.register(registry)
    probe_controller.register(registry)
    metrics.register(registry, gauges, refused)


if __name__ == "__main__":
    sys.exit(main())
