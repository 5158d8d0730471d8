"""A CNI service in a process of its own, for tests that kill it or trace it: run this file with four paths."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import threading

import netlab
import shim_node

from cnf.attach.server import CniServer
from cnf.attach.service import CniService
from cnf.attach.settings import CniHooks, CniSettings
from cnf.netlink.namespace import NetworkNamespace


def start(state_dir: pathlib.Path, *, node_netns: netlab.Net, socket_path: pathlib.Path) -> subprocess.Popen[bytes]:
    """Start the process; it serves once ``socket_path`` exists."""
    command = [sys.executable, __file__, state_dir, node_netns.path, netlab.FOLDER, socket_path]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([str(part) for part in command], env=environ)


def main(state_dir: str, node_netns: str, netns_dir: str, socket_path: str) -> None:
    cni = CniService(
        CniSettings(state_dir=pathlib.Path(state_dir), netns_dir=pathlib.Path(netns_dir)),
        node_netns=NetworkNamespace.open(node_netns),
        hooks=CniHooks(on_change=lambda: None),
    )
    cni.restore()
    cni.set_network(shim_node.NETWORK)
    CniServer(pathlib.Path(socket_path), cni.calls.call).run(threading.Event())


if __name__ == "__main__":
    main(*sys.argv[1:])
