"""``python -m crossdns``: reads the settings, starts processes and threads, and stops without losing a query.

Invariant: after SIGTERM queries are answered, from a zone that goes on following the API, until clients ask another
replica (``crossdns.server.drain``).
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import prometheus_client

from crossdns import errors, metrics
from crossdns.server import drain, workers
from crossdns.watch import saved, watch
from fleetboard.kube import errors as kube_errors
from fleetboard.kube import metrics as kube_metrics
from fleetboard.kube.client import Client
from fleetboard.model import names, namespaces
from fleetboard.runtime import environment, logs, process, server

log = logging.getLogger(__name__)


def main() -> int:
    """Run until a signal; return the exit status."""
    try:
        level = environment.read("LOG_LEVEL", "info")
        logs.configure("crossdns", level)
        return _run(level)
    except (ValueError, errors.CrossdnsError, kube_errors.KubeError) as err:
        log.error("%s", err)
        return 1


def _run(level: str) -> int:
    port = environment.read("DNS_PORT", 5353, parse=environment.port)
    udp_processes = environment.read("DNS_WORKERS", 1, parse=_worker_count)
    namespace = environment.read("NAMESPACE", names.NAMESPACE)
    observe_port = environment.read("OBSERVE_PORT", names.OBSERVE_PORT, parse=environment.port)
    drain_s = environment.read("DNS_DRAIN_S", drain.MOST_S, parse=float)
    folder = environment.read("STATE_DIR", "")
    imports = _imports()
    pool = workers.WorkerPool(port=port, udp_processes=udp_processes, log_level=level)
    try:
        zone_file = saved.ZoneFile(Path(folder)) if folder else None
        client = Client.in_cluster(user_agent="fleetboard-crossdns")
        zone_watch = watch.ZoneWatch(client, namespace=namespace, consumer=pool, imports=imports, zone_file=zone_file)
        return _serve(pool, zone_watch, observe_port=observe_port, drain_s=drain_s)
    finally:
        pool.close()


def _serve(pool: workers.WorkerPool, zone_watch: watch.ZoneWatch, *, observe_port: int, drain_s: float) -> int:
    registry = prometheus_client.CollectorRegistry()
    metrics.register(registry, pool)
    kube_metrics.register(registry)
    draining, ended = threading.Event(), threading.Event()

    def unready_reason() -> str | None:
        if draining.is_set():
            return "stopping"
        return None if pool.served() else "no zone yet: not every collection has been listed from the API"

    def drain_clients(stopping: threading.Event) -> None:
        stopping.wait()
        draining.set()
        client_drain = drain.Drain(pool.received, most_s=drain_s)
        # Without one of the processes half of the queries get no answer, so the restart must not wait.
        while pool.gone() is None and not client_drain.over():
            ended.wait(0.1)
        ended.set()

    observed = server.serve(
        port=observe_port, registry=registry, unhealthy_reason=pool.stalled, unready_reason=unready_reason
    )
    try:
        lasting = {**zone_watch.threads, "answering processes": pool.run}
        threads = {name: functools.partial(_until, ended, run) for name, run in lasting.items()}
        return process.run({**threads, "drain": drain_clients}, grace_s=drain_s + 4)
    finally:
        observed.close()


def _until(ended: threading.Event, run: Callable[[threading.Event], None], _stop: threading.Event) -> None:
    run(ended)


def _imports() -> namespaces.Namespaces:
    """Read the settings that syncer reads too: a namespace that it refuses to import has no names either."""
    accepted: tuple[str, ...] = ("*",)
    refused: tuple[str, ...] = ("kube-system",)
    accepted = environment.read("IMPORT_NAMESPACES", accepted, parse=environment.words)
    refused = environment.read("IMPORT_NAMESPACES_REFUSED", refused, parse=environment.words)
    return namespaces.Namespaces(accepted=frozenset(accepted), refused=frozenset(refused))


def _worker_count(text: str) -> int:
    count = int(text) if text.isdecimal() else 0
    if not 1 <= count <= 64:
        raise ValueError("expected a number of processes, 1 to 64")
    return count


if __name__ == "__main__":
    sys.exit(main())
