"""A cluster that tries to join: the syncer of the agent's chart, alone in a namespace of its own.

It runs on the hub's own machine, the one cluster that has no agent, so that whatever it does there harms nobody by
accident; what is asked is whether it harms anybody through the hub.

Invariant: it is what the chart renders, except for its namespace and that it is started once.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Callable
from typing import Any

import lab
import yaml

ROOT = pathlib.Path(__file__).parents[2]
CHART = str(ROOT / "manifests/charts/fleetboard-agent")
PLACE = lab.HUB


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a trial ended.

    Attributes:
        status: Its exit status.
        level: Level of its last log line.
        sentence: What that line says.
        condition: The Joined condition.
        seconds: How long it ran.
    """

    status: int
    level: str
    sentence: str
    condition: dict[str, Any]
    seconds: float


def create_token(cluster: str) -> dict[str, str]:
    """Create the values with which ``cluster`` joins."""
    text = lab.HUB.kubectl(
        "-n", lab.SYSTEM, "exec", "deploy/syncer-hub", "--", "fleetboard", "token", "create", "--cluster", cluster
    )
    values: dict[str, str] = yaml.safe_load(text)["hub"]
    return values


def template(chart: str, values: dict[str, Any], *flags: str) -> str:
    """Render a chart without asking a cluster.

    Raises:
        CommandError: the values are refused.
    """
    command = ("helm", "template", "trial", chart, f"--namespace={lab.SYSTEM}", "--kube-version=1.34.0", "--values=-")
    return lab.run(*command, *flags, stdin=json.dumps(values))


def render(namespace: str, values: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Render the chart's syncer into a namespace; ``change`` may spoil each object, which the schema wouldn't let."""
    image = lab.C1.get("deployment", "syncer", lab.SYSTEM)["spec"]["template"]["spec"]["containers"][0]["image"]
    values = values | {"image": {"tag": image.rpartition(":")[2]}, "dns": {"configureCoreDNS": False}}
    templates = [f"--show-only=templates/{name}.yaml" for name in ("leases", "hub-join", "syncer")]
    text = template(CHART, values, *templates)
    found = [lab.make_namespace(namespace)]
    documents = yaml.safe_load_all(text.replace(f"namespace: {lab.SYSTEM}", f"namespace: {namespace}"))
    for item in filter(None, documents):
        for named in (item["metadata"], item.get("roleRef", {})):
            named["name"] = named.get("name", "").replace("fleetboard-syncer", namespace)
        change(item)
        if item["kind"] == "ClusterRole":
            _only_reads(item)
        if item["kind"] == "Deployment":
            item = _once(item, namespace)
        found.append(item)
    return found


def _only_reads(role: dict[str, Any]) -> None:
    """Take the right to write outside its own namespace: two syncers of one cluster would undo each other's imports."""
    for rule in role["rules"]:
        rule["verbs"] = [verb for verb in rule["verbs"] if verb in ("get", "list", "watch")] or ["get"]


def _once(deployment: dict[str, Any], namespace: str) -> dict[str, Any]:
    template = deployment["spec"]["template"]
    metadata = {"name": "syncer", "namespace": namespace, "labels": {"app": "trial"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": template["spec"] | {"restartPolicy": "Never"},
    }


def finish(namespace: str, *, within_s: float = 180) -> Ending:
    """Wait for the end of a trial, one of many that start at once, and return what it said."""

    def ended() -> dict[str, Any]:
        (container,) = PLACE.get("pod", "syncer", namespace)["status"]["containerStatuses"]
        state: dict[str, Any] = container["state"]["terminated"]
        return state

    state = lab.eventually(ended, within_s=within_s, every_s=0.5)
    last = json.loads(PLACE.kubectl("-n", namespace, "logs", "syncer").splitlines()[-1])
    (report,) = PLACE.list("peerreports", namespace)
    (condition,) = (one for one in report["status"]["conditions"] if one["type"] == "Joined")
    began, over = (datetime.datetime.fromisoformat(state[key]) for key in ("startedAt", "finishedAt"))
    return Ending(state["exitCode"], last["level"], last["msg"], condition, (over - began).total_seconds())


def clear(*namespaces: str) -> None:
    """Take trials away."""
    PLACE.kubectl("delete", "clusterrole,clusterrolebinding", *namespaces, "--ignore-not-found")
    PLACE.kubectl("delete", "namespace", *namespaces, "--ignore-not-found", "--wait=false")
