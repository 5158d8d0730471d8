"""The agent's settings, read from its environment.

Invariant: a process that starts has every setting it needs; a missing or malformed one ends it with a sentence.
"""

from __future__ import annotations

import dataclasses
import pathlib

from fleetboard.model import names
from fleetboard.runtime import environment

GRACE_S = 4.0
"""How long threads have to end; kubelet gives cnf's pods 5 s, and then kills."""


@dataclasses.dataclass(frozen=True, slots=True)
class AgentSettings:
    """Settings of ``python -m cnf``.

    Attributes:
        node: Name of the Kubernetes node.
        pod_ip: Primary address of this pod, where other nodes reach its WireGuard.
        cluster: This cluster's name in the clusterset.
        clusterset: Name of the clusterset on the hub.
        namespace: Namespace of Fleetboard's objects.
        state_dir: Folder that outlives the pod: key, journal.
        run_dir: Folder that outlives the pod but not the node's reboot: socket, spooled DELs.
        netns_dir: The host's named network namespaces.
        startup_taint: Whether to reconcile this node's startup taint.
        cni_conf_dir: The runtime's network configurations; read only with ``startup_taint``.
        observe_port: Port of metrics and health.
        log_level: Least severe level that is logged.
    """

    node: str
    pod_ip: str
    cluster: str
    clusterset: str
    namespace: str
    state_dir: pathlib.Path
    run_dir: pathlib.Path
    netns_dir: pathlib.Path
    startup_taint: bool
    cni_conf_dir: pathlib.Path
    observe_port: int
    log_level: str


def read() -> AgentSettings:
    """Read the environment.

    Raises:
        SettingRefusedError: names the variable, its value and what was expected.
    """
    return AgentSettings(
        node=environment.read("NODE_NAME"),
        pod_ip=environment.read("POD_IP"),
        cluster=environment.read("CLUSTER", parse=names.parse_cluster_name),
        clusterset=environment.read("CLUSTERSET", "default", parse=names.parse_clusterset_name),
        namespace=environment.read("NAMESPACE", names.NAMESPACE),
        state_dir=environment.read("STATE_DIR", pathlib.Path("/var/lib/fleetboard"), parse=pathlib.Path),
        run_dir=environment.read("RUN_DIR", pathlib.Path("/run/fleetboard"), parse=pathlib.Path),
        netns_dir=environment.read("NETNS_DIR", pathlib.Path("/run/netns"), parse=pathlib.Path),
        startup_taint=environment.read("STARTUP_TAINT", False, parse=environment.flag),
        cni_conf_dir=environment.read("CNI_CONF_DIR", pathlib.Path("/etc/cni/net.d"), parse=pathlib.Path),
        observe_port=environment.read("OBSERVE_PORT", names.OBSERVE_PORT, parse=environment.port),
        log_level=environment.read("LOG_LEVEL", "info"),
    )
