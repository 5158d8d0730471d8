"""cnf's CNI service in a process of its own, as the daemon runs it, without the API: what the benches call.

It ends when its stdin does, so that it never outlives the bench.
"""

from __future__ import annotations

import importlib
import ipaddress
import json
import pathlib
import sys
import threading
import time

from cnf.attach import server, service
from cnf.attach.node_network import network
from cnf.attach.settings import CniHooks, CniSettings
from cnf.netlink.namespace import NetworkNamespace

NETWORK = network.NodeNetwork(
    node_address=ipaddress.ip_address("10.112.4.0"),
    blocks=(ipaddress.ip_network("10.112.4.0/23"),),
    fleet=(ipaddress.ip_network("10.112.0.0/12"),),
    mtu=1360,
)


def main(state: str, node_netns: str) -> None:
    """Restore, serve, and say so in one line of JSON."""
    started = time.monotonic()
    sys.setswitchinterval(0.0005)  # as cnf does
    calls: list[tuple[str, float]] = []
    served = service.CniService(
        CniSettings(state_dir=pathlib.Path(state), netns_dir=pathlib.Path("/run/netns")),
        node_netns=NetworkNamespace.open(node_netns),
        hooks=CniHooks(
            on_change=lambda: None, on_call=lambda verb, code, seconds: calls.append((verb, seconds * 1000))
        ),
    )
    summary = served.restore()
    restored_s = time.monotonic() - started
    served.set_network(NETWORK)
    listener = server.CniServer(pathlib.Path("/run/fleetboard/cni.sock"), served.calls.call)
    stop = threading.Event()
    thread = threading.Thread(target=listener.run, args=(stop,))
    thread.start()
    listener.listening.wait(10)
    begun_ms = time.process_time() * 1000
    print(json.dumps({"restored_s": restored_s, "recreated": summary.recreated}), flush=True)
    # After it serves, as in cnf; and all of it, so that its memory is that of a cnf.
    importlib.import_module("cnf.agent.agent")
    for line in sys.stdin:
        if line == "spent\n":
            print(json.dumps({"calls": calls, "cpu_ms": time.process_time() * 1000 - begun_ms}), flush=True)
    stop.set()
    thread.join(10)


if __name__ == "__main__":
    main(*sys.argv[1:])
