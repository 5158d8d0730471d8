"""The lab as tests see it: three clusters, and what one asks of them.

Invariant: nothing here knows Fleetboard's insides; it speaks to API servers, pods and nodes as a user would.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

SYSTEM = "fleetboard-system"
TOOLS = "fleetboard-tools:latest"
"""nginx, curl, python3, ip, ping, socat and tcpdump; on every node."""
NETWORKS = "k8s.v1.cni.cncf.io/networks"
ATTACHED = {NETWORKS: "default/fleetboard"}
MEASURED = "50m"
"""As much processor as our parts: with less, the pods that measure are the ones that wait while parts start."""
ALONE = {"fleetboard.io/attach": "false"}
"""The label of a namespace or a pod that takes no part: every other pod of the lab's members is attached."""


class CommandError(Exception):
    """A command in the lab failed; the text is what it printed."""


def run(*command: str, stdin: str | None = None, timeout_s: float = 60) -> str:
    """Run a command on this machine and return what it printed.

    Raises:
        CommandError: it failed or took too long.
    """
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as err:
        raise CommandError(f"{' '.join(command)[:200]} took longer than {timeout_s} s") from err
    if done.returncode:
        raise CommandError(f"{' '.join(command)[:200]} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def eventually(check: Callable[[], T], *, within_s: float, every_s: float = 0.1) -> T:
    """Call ``check`` until it returns something true, and return that; the last failure is raised when time is up."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            result = check()
            problem: Exception = AssertionError(f"still {result!r} after {within_s} s")
            if result:
                return result
        except (CommandError, AssertionError, KeyError, IndexError) as err:
            problem = err
        if time.monotonic() > deadline:
            raise problem
        time.sleep(every_s)


def record(what: str, figure: float) -> None:
    """Keep a figure, seconds unless it says otherwise, in ``build/e2e/figures.jsonl``; docs/operations.md quotes it."""
    file = pathlib.Path(__file__).parents[2] / "build/e2e/figures.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps({"at": round(time.time()), "what": what, "figure": round(figure, 3)}) + "\n")


@dataclasses.dataclass(frozen=True)
class Pod:
    """One pod of one cluster."""

    cluster: Cluster
    namespace: str
    name: str

    def exec(self, *command: str, stdin: str | None = None, timeout_s: float = 30) -> str:
        """Run a command in its first container.

        Raises:
            CommandError: it failed.
        """
        flags = ("-i",) if stdin is not None else ()
        return self.cluster.kubectl(
            "-n", self.namespace, "exec", *flags, self.name, "--", *command, stdin=stdin, timeout_s=timeout_s
        )

    def sh(self, script: str, *, timeout_s: float = 30) -> str:
        """Run a shell script in its first container."""
        return self.exec("sh", "-ec", script, timeout_s=timeout_s)

    @property
    def fleet_address(self) -> str:
        """Its address on net1."""
        shown = json.loads(self.exec("ip", "-j", "-4", "addr", "show", "dev", "net1"))
        return str(shown[0]["addr_info"][0]["local"])

    @property
    def node(self) -> str:
        """The node it runs on."""
        return str(self.cluster.get("pod", self.name, self.namespace)["spec"]["nodeName"])


Objects = list[dict[str, Any]]
Pods = list[Pod]
Names = list[str]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One cluster: ``hub``, ``c1`` or ``c2``."""

    name: str

    @property
    def context(self) -> str:
        """Its context in the lab's kubeconfig."""
        return f"kind-fleet-{self.name}"

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 60) -> str:
        """Run kubectl against it."""
        return run("kubectl", "--context", self.context, *arguments, stdin=stdin, timeout_s=timeout_s)

    def helm(self, *arguments: str, timeout_s: float = 300) -> str:
        """Run helm against it."""
        return run("helm", "--kube-context", self.context, *arguments, timeout_s=timeout_s)

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Apply objects."""
        self.kubectl(
            "apply", "--server-side", "--force-conflicts", "-f", "-", stdin="\n---\n".join(map(json.dumps, manifests))
        )

    def get(self, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        """Return one object.

        Raises:
            CommandError: it is not there.
        """
        scope = ("-n", namespace) if namespace else ()
        found: dict[str, Any] = json.loads(self.kubectl(*scope, "get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str, namespace: str = "", *, selector: str = "") -> Objects:
        """Return the objects of a kind, of all namespaces when none is given."""
        scope = ("-n", namespace) if namespace else ("-A",)
        labels = ("-l", selector) if selector else ()
        items: Objects = json.loads(self.kubectl("get", kind, *scope, *labels, "-o", "json"))["items"]
        return items

    def delete(self, kind: str, name: str, namespace: str = "", *, wait: bool = True) -> None:
        """Delete one object; one that isn't there is fine."""
        scope = ("-n", namespace) if namespace else ()
        self.kubectl(*scope, "delete", kind, name, "--ignore-not-found", f"--wait={str(wait).lower()}", timeout_s=180)

    def pods(self, namespace: str, app: str) -> Pods:
        """Return the ready pods of an app that aren't being deleted."""
        return [
            Pod(self, namespace, item["metadata"]["name"])
            for item in self.list("pods", namespace, selector=f"app={app}")
            if "deletionTimestamp" not in item["metadata"] and is_ready(item)
        ]

    def wait_pods(self, namespace: str, app: str, count: int, *, within_s: float = 120) -> Pods:
        """Wait until an app has that many ready pods, and return them."""

        def enough() -> Pods:
            found = self.pods(namespace, app)
            return found if len(found) == count else []

        return eventually(enough, within_s=within_s, every_s=0.5) if count else []

    def nodes(self) -> Names:
        """Return the names of its nodes, which are containers of the same names."""
        return sorted(item["metadata"]["name"] for item in self.list("nodes"))

    def node_exec(self, node: str, *command: str, timeout_s: float = 60) -> str:
        """Run a command on a node."""
        return run("docker", "exec", node, *command, timeout_s=timeout_s)

    def cnf_pod(self, node: str) -> str:
        """Return the name of the cnf pod of a node."""
        for item in self.list("pods", SYSTEM, selector="app.kubernetes.io/name=cnf"):
            if item["spec"].get("nodeName") == node and "deletionTimestamp" not in item["metadata"]:
                return str(item["metadata"]["name"])
        raise AssertionError(f"no cnf pod on {node}")

    def leader(self) -> str:
        """Return the node that carries this cluster's traffic."""
        return str(self.get("lease", "cnf-leader", SYSTEM)["spec"]["holderIdentity"])


HUB, C1, C2 = Cluster("hub"), Cluster("c1"), Cluster("c2")
CLUSTERS = (HUB, C1, C2)


def is_ready(pod: dict[str, Any]) -> bool:
    """Return whether a pod is ready."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def make_deployment(
    name: str,
    namespace: str,
    *,
    replicas: int = 1,
    command: list[str] | None = None,
    node: str = "",
    attached: bool = True,
    probe_port: int = 0,
    cpu: str = "5m",
) -> dict[str, Any]:
    """Make a Deployment of the tools image, labelled ``app=<name>``; without a command it sleeps.

    ``cpu`` is what it asks for, and its weight where processors are short: ``MEASURED`` for what must answer in time.
    """
    container: dict[str, Any] = {
        "name": "main",
        "image": TOOLS,
        "imagePullPolicy": "Never",
        "command": command or ["sleep", "infinity"],
        "resources": {"requests": {"cpu": cpu, "memory": "16Mi"}},
    }
    if probe_port:
        container["readinessProbe"] = {"tcpSocket": {"port": probe_port}, "periodSeconds": 1}
    spec: dict[str, Any] = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    if node:
        spec |= {"nodeName": node}
    labels = {"app": name} | ({} if attached else ALONE)
    metadata = {"labels": labels, "annotations": ATTACHED if attached else {}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": metadata, "spec": spec},
        },
    }


def make_service(name: str, namespace: str, *ports: tuple[str, str, int, int]) -> dict[str, Any]:
    """Make a Service for the app of the same name; ports are (name, protocol, port, target port)."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"app": name},
            "ports": [
                {"name": label, "protocol": protocol, "port": port, "targetPort": target}
                for label, protocol, port, target in ports
            ],
        },
    }


def make_export(name: str, namespace: str) -> dict[str, Any]:
    """Make a ServiceExport."""
    return {
        "apiVersion": "multicluster.x-k8s.io/v1alpha1",
        "kind": "ServiceExport",
        "metadata": {"name": name, "namespace": namespace},
    }


def make_namespace(name: str) -> dict[str, Any]:
    """Make a Namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def dns_name(service: str, namespace: str, zone: str = "hyperos.local") -> str:
    """Return a service's name in the clusterset."""
    return f"{service}.{namespace}.svc.{zone}"
