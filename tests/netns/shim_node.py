"""A node for the packed CNI executable: a real service and socket, and the executable run as a runtime does.

The executable knows one path for the socket, so each call gets a mount namespace where that path is our folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
import pathlib
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import netlab
from netlab import Net, Nets

from cnf.attach.node_network.network import NodeNetwork
from cnf.attach.server import CniServer
from cnf.attach.service import CniService
from cnf.attach.settings import CniHooks, CniSettings
from cnf.netlink.namespace import NetworkNamespace

RUN = pathlib.Path("/run/fleetboard")
NETWORK = NodeNetwork(
    node_address=ipaddress.ip_address("10.112.4.0"),
    blocks=(ipaddress.ip_network("10.112.4.0/26"),),
    fleet=(ipaddress.ip_network("10.112.0.0/12"),),
    mtu=1360,
)
BOTH_FAMILIES = dataclasses.replace(
    NETWORK,
    blocks=(*NETWORK.blocks, ipaddress.ip_network("fd00:1::/64")),
    fleet=(*NETWORK.fleet, ipaddress.ip_network("fd00::/16")),
)
CONFIG: dict[str, Any] = {"cniVersion": "1.0.0", "name": "fleetboard", "type": "fleetboard"}


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The result of one call of the executable."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def content(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.stdout)

    @property
    def code(self) -> int:
        """The CNI error code; 0 for success."""
        return int(self.content["code"]) if self.status else 0


def environ(verb: str, container: str, pod: Net | None, **over: str) -> dict[str, str]:
    """Return a runtime's environment variables; an empty value leaves its variable out."""
    found = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": str(pod.path) if pod else "",
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container};K8S_POD_UID=u-{container}",
        **over,
    }
    return {name: value for name, value in found.items() if value}


@dataclasses.dataclass
class Node:
    """A node whose cnf serves, or doesn't run."""

    nets: Nets
    folder: pathlib.Path
    shim: pathlib.Path
    cni: CniService
    node_netns: Net

    @property
    def run(self) -> pathlib.Path:
        """The folder that the executable sees as /run/fleetboard."""
        return self.folder / "run"

    @property
    def spooled(self) -> list[pathlib.Path]:
        return sorted((self.run / "del").iterdir())

    def command(self, env: Mapping[str, str], *, prepare: str = ":", program: Sequence[str] = ()) -> list[str]:
        """Return the command line of one call; ``prepare`` is shell run before, in the call's mount namespace."""
        script = f'mount --bind "$0" {RUN} && {prepare} && exec env -i "$@"'
        pairs = [f"{name}={value}" for name, value in env.items()]
        inside = ["sh", "-c", script, str(self.run), *pairs, *(program or [str(self.shim)])]
        return ["unshare", "--mount", "--propagation", "private", *inside]

    def start(self, env: Mapping[str, str], **how: Any) -> subprocess.Popen[bytes]:
        """Start a call; its stdin stays open."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command(env, **how), stdin=pipe, stdout=pipe, stderr=pipe)

    def execute(self, env: Mapping[str, str], stdin: bytes = b"", **how: Any) -> Answer:
        """Make one call."""
        done = subprocess.run(self.command(env, **how), input=stdin, capture_output=True, timeout=60, check=False)
        return Answer(done.returncode, done.stdout, done.stderr)

    def call(self, verb: str, container: str, pod: Net | None, *, config: Any = None, **over: str) -> Answer:
        """Make one call with a configuration like Multus'."""
        stdin = json.dumps({**CONFIG, **(config or {})}).encode()
        return self.execute(environ(verb, container, pod, **over), stdin)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Let cnf listen."""
        stop = threading.Event()
        server = CniServer(self.run / "cni.sock", self.cni.calls.call)
        thread = threading.Thread(target=server.run, args=(stop,))
        thread.start()
        try:
            assert server.listening.wait(10)
            yield
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()


@contextlib.contextmanager
def make_node(nets: Nets, folder: pathlib.Path, shim: pathlib.Path) -> Iterator[Node]:
    """Lend a node whose cnf doesn't listen yet."""
    # It is never removed, because another run of the tests may use it.
    RUN.mkdir(exist_ok=True)
    (folder / "run" / "del").mkdir(parents=True)
    node_netns = nets.make("node")
    with NetworkNamespace.open(node_netns.path) as handle:
        cni = CniService(
            CniSettings(state_dir=folder / "state", netns_dir=netlab.FOLDER),
            node_netns=handle,
            hooks=CniHooks(on_change=lambda: None),
        )
        try:
            cni.restore()
            cni.set_network(NETWORK)
            yield Node(nets, folder, shim, cni, node_netns)
        finally:
            cni.close()
