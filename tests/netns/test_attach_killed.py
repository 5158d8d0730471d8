"""cnf is killed during ADDs: answered ones keep their address, and nothing is left of the others."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import pathlib
import signal
import socket
import subprocess
import threading
import time

import cni_process
import netlab
import pytest
from netlab import Net, Nets

from cnf.attach import frames
from cnf.attach.service import CniService
from cnf.attach.settings import CniHooks, CniSettings
from cnf.netlink.namespace import NetworkNamespace

pytestmark = pytest.mark.netns


@dataclasses.dataclass
class Killable:
    """A cnf that serves in a process of its own."""

    folder: pathlib.Path
    node_netns: Net

    @property
    def path(self) -> pathlib.Path:
        return self.folder / "cni.sock"

    def start(self) -> subprocess.Popen[bytes]:
        self.path.unlink(missing_ok=True)
        process = cni_process.start(self.folder / "state", node_netns=self.node_netns, socket_path=self.path)
        deadline = time.monotonic() + 90
        while not self.path.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    def add(self, pod: Net, container: str) -> str | None:
        """ADD; None when the answer never came."""
        env = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": "net1",
            "CNI_NETNS": str(pod.path),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAME={container}",
        }
        content = b""
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(20)
                sock.connect(str(self.path))
                sock.sendall(frames.render_request(env, b'{"cniVersion":"1.0.0","name":"fleetboard"}'))
                while chunk := sock.recv(65536):
                    content += chunk
        except OSError:
            return None
        head, _, stdout = content.partition(b"\n")
        if not head:
            return None
        assert head.startswith(b"0 "), stdout
        return str(json.loads(stdout)["ips"][0]["address"])


@pytest.mark.parametrize("answers_before_the_kill", [1, 5, 12])
def test_a_kill_among_adds_loses_no_answer_and_leaks_nothing(
    nets: Nets, tmp_path: pathlib.Path, answers_before_the_kill: int
) -> None:
    cnf = Killable(tmp_path, nets.make("node"))
    pods = [nets.make() for _ in range(24)]
    process = cnf.start()
    answered: dict[str, str] = {}
    enough = threading.Event()

    def add(number: int) -> None:
        address = cnf.add(pods[number], f"c{number}")
        if address is not None:
            answered[f"c{number}"] = address
        if len(answered) >= answers_before_the_kill:
            enough.set()

    with concurrent.futures.ThreadPoolExecutor(8) as callers:
        calls = [callers.submit(add, number) for number in range(24)]
        assert enough.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        for call in calls:
            call.result(timeout=60)
    with NetworkNamespace.open(cnf.node_netns.path) as node_netns:
        cni = CniService(
            CniSettings(state_dir=tmp_path / "state", netns_dir=netlab.FOLDER),
            node_netns=node_netns,
            hooks=CniHooks(on_change=lambda: None),
        )
        cni.restore()
        held = {a.pod_name: f"{a.addresses[0]}/32" for a in cni.attachments()}
        cni.close()
    assert answered.items() <= held.items()
    assert len(set(held.values())) == len(held)
    for number, pod in enumerate(pods):
        # An answer may be lost on its way; the runtime's DEL undoes that ADD.
        assert ("net1" in pod.run("ip", "link")) == (f"c{number}" in held)
        if f"c{number}" in held:
            assert pod.answers_ping("10.112.4.0")
