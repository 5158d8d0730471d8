"""The agent's service controller in a process of its own: what the benches load with services."""

from __future__ import annotations

import importlib
import sys
import threading
import time

import bench_vip_api

from cnf.agent.caches import Caches
from cnf.agent.wakes import AgentWork, WorkQueues
from cnf.controllers.services import PendingChanges, ServiceController
from cnf.vip import writer
from fleetboard.kube import client, controller
from fleetboard.model import names


def main(server: str) -> None:
    """Follow the API until killed; print how many seconds the first plan took, until the kernel had it."""
    sys.setswitchinterval(0.0005)  # as cnf does
    stop = threading.Event()
    api = client.Client.from_token(server, ca_pem=b"", token=lambda: "any", user_agent="bench")
    pending = PendingChanges()
    work_queues = WorkQueues(pending.recorders)
    caches = Caches(api, names.NAMESPACE, node=bench_vip_api.NODE, on_change=work_queues.wake)
    services = ServiceController(
        node=bench_vip_api.NODE,
        cluster=bench_vip_api.CLUSTER,
        caches=caches,
        pending=pending,
        firewall_writer=writer.FirewallWriter(),
        isolated=lambda: False,
    )

    def reconcile(key: str) -> float:
        began, first = time.monotonic(), not services.ready
        again_s = services.reconcile(key)
        if first and services.ready:
            print(time.monotonic() - began, flush=True)
        return again_s

    worker = controller.Controller(
        "services",
        reconcile,
        wait_for=caches.services_synced,
        rest_factor=2.0,
        queue=work_queues.queue(AgentWork.SERVICES),
    )
    runs = [*caches.threads().values(), worker.run]
    threads = [threading.Thread(target=run, args=(stop,), daemon=True) for run in runs]
    importlib.import_module("cnf.agent.agent")  # its memory is to be that of a cnf
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1])
