"""``python -m syncer.hub``: admits clusters, allocates addresses, copies endpoints and merges exports."""

from __future__ import annotations

import logging
import os
import sys

from prometheus_client import CollectorRegistry

from fleetboard.kube import errors
from fleetboard.kube import metrics as kube_metrics
from fleetboard.kube.client import Client
from fleetboard.model import membership, names, resource
from fleetboard.runtime import logs, process, server
from syncer.hub import settings as hub_settings
from syncer.hub.syncer import LEASE, HubSyncer
from syncer.rules.clusterset_settings import ClustersetSettings

log = logging.getLogger(__name__)


def ensure_namespace(client: Client, clusterset: ClustersetSettings) -> None:
    """Create the clusterset's namespace if it does not exist."""
    if client.find(resource.NAMESPACES, clusterset.namespace) is None:
        labels = {names.LABEL_CLUSTERSET: clusterset.name}
        rendered = membership.render_namespace(clusterset.namespace, labels)
        try:
            client.create(resource.NAMESPACES, rendered)
        except errors.AlreadyExistsError:
            log.debug("another replica created the clusterset's namespace")


def main() -> int:
    """Run until stopped; return the exit status."""
    try:
        logs.configure(LEASE, os.environ.get("LOG_LEVEL", "info"))
        settings = hub_settings.read()
        client = Client.in_cluster(user_agent=LEASE)
        ensure_namespace(client, settings.clusterset)
    except (ValueError, errors.KubeError) as err:
        log.error("could not start: %s", err)
        return 1
    registry = CollectorRegistry()
    kube_metrics.register(registry)
    hub_syncer = HubSyncer(client, settings, registry)
    observer = server.serve(
        port=settings.observe_port,
        registry=registry,
        unhealthy_reason=lambda: None,
        unready_reason=hub_syncer.unready_reason,
    )
    try:
        return process.run(hub_syncer.threads) or hub_syncer.exit_status
    finally:
        observer.close()
        client.close()


if __name__ == "__main__":
    sys.exit(main())
