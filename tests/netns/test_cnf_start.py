"""The whole of ``python -m cnf``, its API server away: pods are back and served before the rest of it is loaded."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import ipaddress
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import netlab
import pytest
from netlab import Net, Nets
from shim_node import NETWORK, environ

from cnf.attach import frames
from cnf.attach.node_network import network_file

pytestmark = pytest.mark.netns

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = b'{"cniVersion":"1.0.0","name":"fleetboard","type":"fleetboard"}'
ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
ADDRESSES = 100


@dataclasses.dataclass
class Cnf:
    """One process after the other on one node; ``log`` has what they said."""

    folder: pathlib.Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self, node_netns: Net, *, path: str = "", modules: str = "") -> None:
        """Start one in a namespace, with a service account whose API server gives no answer.

        Programs of ``path`` and modules of ``modules`` come first.
        """
        run = self.folder / "run"
        settings = {
            "NODE_NAME": "n1",
            "POD_IP": "192.0.2.1",
            "CLUSTER": "c1",
            "STATE_DIR": str(self.folder / "state"),
            "RUN_DIR": str(run),
            "NETNS_DIR": str(netlab.FOLDER),
            "OBSERVE_PORT": "19464",
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": "1",
            "PATH": f"{path}:{os.environ['PATH']}",
            "PYTHONPATH": modules,
        }
        mount = f'mount --bind "$0" {ACCOUNT} && exec "$@"'
        inside = ["sh", "-c", mount, str(self.folder / "account"), sys.executable, "-m", "cnf"]
        command = ["ip", "netns", "exec", node_netns.name, "unshare", "--mount", "--propagation", "slave", *inside]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)

    def call(self, verb: str, pod: Net, container: str) -> dict[str, object]:
        """Call as the CNI executable does: again and again until somebody listens."""
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(ConnectionRefusedError, FileNotFoundError), socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(60)
                sock.connect(str(self.folder / "run/cni.sock"))
                with pod.path.open() as namespace:
                    socket.send_fds(
                        sock, [frames.render_request(environ(verb, container, pod), CONFIG)], [namespace.fileno()]
                    )
                content = b""
                while chunk := sock.recv(1 << 16):
                    content += chunk
                assert content.startswith(b"0 "), content
                return dict(json.loads(content.partition(b"\n")[2] or b"{}"))
            assert time.monotonic() < deadline, self.log
            time.sleep(0.005)


@pytest.fixture
def cnf(tmp_path: pathlib.Path) -> Iterator[Cnf]:
    ACCOUNT.mkdir(parents=True, exist_ok=True)
    for name in ("state", "run", "account"):
        (tmp_path / name).mkdir()
    for name in ("token", "ca.crt", "namespace"):
        (tmp_path / "account" / name).write_text("none")
    blocks = ("10.112.4.0/26", "10.112.4.64/26")
    known = dataclasses.replace(NETWORK, blocks=tuple(map(ipaddress.ip_network, blocks)))
    network_file.write(tmp_path / "state/network.json", known)
    made = Cnf(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


def link(pod: Net) -> tuple[int, str]:
    """Return index and address of a pod's interface."""
    (shown,) = json.loads(pod.run("ip", "-j", "addr", "show", "dev", "net1"))
    return shown["ifindex"], shown["addr_info"][0]["local"]


HOLD = """
import pathlib, sys, time
class Hold:
    def find_spec(self, name, path=None, target=None):
        while name == "cnf.agent.agent" and not pathlib.Path({go!r}).exists():
            pathlib.Path({held!r}).touch()
            time.sleep(0.01)
sys.meta_path.insert(0, Hold())
"""


def test_calls_are_served_before_the_rest_is_loaded(
    nets: Nets, cnf: Cnf, eventually: Callable[[Callable[[], object]], None]
) -> None:
    go, held, modules = cnf.folder / "go", cnf.folder / "held", cnf.folder / "modules"
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(HOLD.format(go=str(go), held=str(held)))
    cnf.start(nets.make("node"), modules=str(modules))
    cnf.call("ADD", nets.make(), "first")
    eventually(held.exists)
    assert '"msg":"running"' not in cnf.log
    go.touch()
    eventually(lambda: '"msg":"running"' in cnf.log)


def test_a_replaced_pod_and_a_killed_process_have_all_pods_as_they_were(
    nets: Nets, cnf: Cnf, capsys: pytest.CaptureFixture[str]
) -> None:
    pods = [nets.make() for _ in range(ADDRESSES)]
    one_more, another = nets.make(), nets.make()
    node_netns = nets.make("node")
    cnf.start(node_netns)
    with concurrent.futures.ThreadPoolExecutor(8) as callers:
        list(callers.map(lambda number: cnf.call("ADD", pods[number], f"c{number}"), range(ADDRESSES)))
    before = [link(pod) for pod in pods]

    cnf.kill()
    started = time.perf_counter()
    cnf.start(node_netns)
    cnf.call("ADD", one_more, "one-more")
    killed = time.perf_counter() - started
    assert [link(pod) for pod in pods] == before

    cnf.kill()
    nets.remove(node_netns)
    started = time.perf_counter()
    cnf.start(nets.make("successor"))
    cnf.call("ADD", another, "another")
    replaced = time.perf_counter() - started
    assert [link(pod) for pod in pods] == before
    with capsys.disabled():
        print(
            f"\n{ADDRESSES} attachments: the first ADD is served {killed * 1000:.0f} ms after the start of a killed "
            f"process' successor, {replaced * 1000:.0f} ms after that of a replaced pod's"
        )


def put_nft(folder: pathlib.Path, script: str) -> str:
    """Put another nft in a folder for PATH."""
    folder.mkdir()
    (folder / "nft").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nft").chmod(0o755)
    return str(folder)


def test_a_signal_in_the_middle_of_the_start_ends_it_in_order(
    nets: Nets, cnf: Cnf, eventually: Callable[[Callable[[], object]], None]
) -> None:
    begun = cnf.folder / "begun"
    cnf.start(
        nets.make("node"), path=put_nft(cnf.folder / "bin", f'touch {begun}; sleep 1; exec {shutil.which("nft")} "$@"')
    )
    eventually(begun.exists)
    assert cnf.process is not None
    cnf.process.terminate()
    assert cnf.process.wait(60) == 0
    assert '"signal":"SIGTERM"' in cnf.log


def test_without_a_firewall_there_is_no_start(nets: Nets, cnf: Cnf) -> None:
    cnf.start(nets.make("node"), path=put_nft(cnf.folder / "bin", "kill -9 $$"))
    assert cnf.process is not None
    assert cnf.process.wait(60) == 1
    assert "nft was ended by signal 9" in cnf.log
    assert not (cnf.folder / "run/cni.sock").exists()
