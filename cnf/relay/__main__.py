"""``python -m cnf.relay``: builds the relay from its settings and runs it until it is stopped."""

from __future__ import annotations

import logging
import sys

import prometheus_client

from cnf.agent import metrics
from cnf.agent import settings as agent_settings
from cnf.relay import key
from cnf.relay import settings as relay_settings
from cnf.relay.relay import Relay
from cnf.tunnel import errors
from cnf.tunnel.wireguard.tunnel import Tunnel
from fleetboard.kube import client as kube_client
from fleetboard.kube import errors as kube_errors
from fleetboard.kube import metrics as kube_metrics
from fleetboard.runtime import environment, logs, process, server

log = logging.getLogger(__name__)

COMPONENT = "cnf-hub"


def main() -> int:
    """Run until stopped; return the exit status."""
    logs.configure(COMPONENT)
    try:
        settings = relay_settings.read()
        logs.configure(COMPONENT, settings.log_level)
        client = kube_client.Client.in_cluster(user_agent="fleetboard-cnf-hub")
    except (environment.SettingRefusedError, kube_errors.KubeError) as err:
        log.error("%s", err)
        return 1
    registry = prometheus_client.CollectorRegistry()
    kube_metrics.register(registry)
    started: list[Relay] = []  # empty while the key can't be read: until then the pod is healthy and not ready
    observed = server.serve(
        port=settings.observe_port,
        registry=registry,
        unhealthy_reason=lambda: None,
        unready_reason=lambda: started[0].unready_reason() if started else "the relay's key has not been read yet",
    )
    try:
        tunnel = Tunnel(private_key=key.wait(client, settings.namespace))
        relay = Relay(client, tunnel=tunnel, clusterset=settings.clusterset, endpoints=settings.endpoints)
        registry.register(metrics.TunnelCollector(tunnel, relay.prober.states))
        started.append(relay)
        return process.run(relay.threads(), grace_s=agent_settings.GRACE_S)
    except (kube_errors.KubeError, errors.TunnelError) as err:
        log.error("%s", err)
        return 1
    finally:
        observed.close()


if __name__ == "__main__":
    sys.exit(main())
