"""cnf's service plane in a process of its own, as the daemon runs it: what the benches load with services."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable

import bench_vip_api

from cnf.agent import caches
from cnf.controllers.services import Spreading
from cnf.vip import writer
from fleetboard.kube import client, controller
from fleetboard.model import names


def main(server: str) -> None:
    """Follow the API until killed; print how many seconds the first plan took, until the kernel had it."""
    sys.setswitchinterval(0.0005)  # as cnf does
    stop = threading.Event()
    api = client.Client.from_token(server, ca_pem=b"", token=lambda: "any", user_agent="bench")
    spread: controller.Controller[str]

    def noting(note: Callable[[str], None]) -> Callable[[str], None]:
        def noted(key: str) -> None:
            note(key)
            spread.enqueue("all")

        return noted

    def mesh(_key: str) -> None:
        work.note_mesh()
        spread.enqueue("all")

    known = caches.Caches(
        api,
        names.NAMESPACE,
        node=bench_vip_api.NODE,
        on_node=mesh,
        on_own_node=mesh,
        on_peer=mesh,
        on_service=noting(lambda key: work.note_service(key)),
        on_slice=noting(lambda key: work.note_slice(key)),
        on_claims=lambda _key: None,
        on_pods=lambda _key: None,
    )
    work = Spreading(
        node=bench_vip_api.NODE,
        cluster=bench_vip_api.CLUSTER,
        known=known,
        plane=writer.VipPlane(),
        isolated=lambda: False,
    )

    def reconcile(key: str) -> float:
        began, first = time.monotonic(), not work.ready
        again_s = work.reconcile(key)
        if first and work.ready:
            print(time.monotonic() - began, flush=True)
        return again_s

    spread = controller.Controller("services", reconcile, wait_for=known.services_synced, rest=2.0)
    runs = [*known.threads().values(), spread.run]
    threads = [threading.Thread(target=run, args=(stop,), daemon=True) for run in runs]
    importlib.import_module("cnf.agent.agent")  # its memory is to be that of a cnf
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1])
