"""What the lab looked like when a test failed: by the time somebody reads of it, pods and logs are gone.

Invariant: collecting never fails a test, and what can't be collected says so in its file.
"""

from __future__ import annotations

import concurrent.futures
import json
import pathlib
import re

import lab

FOLDER = pathlib.Path(__file__).parents[2] / "build/e2e/evidence"
SINCE = "5m"
OBJECTS = "pods,peers,peerreports,fleetnodes,nodeattachments,fleetservices,exportedservices,claims,endpointslices"
MEMBERS_OBJECTS = "serviceexports,serviceimports"
MOST = 5
"""Failures that are looked into: on a lab that is gone, each look waits for time-outs."""
ANSWER_S = 15
SHOWN = 40
"""Lines of warnings and errors that go into the test's report."""
_INFO = re.compile(r'"level": ?"info"')


def collect(test: str) -> str:
    """Write objects, events, logs and rules of all clusters into a folder; return the last warnings and where it is."""
    folder = FOLDER / re.sub(r"[^\w.-]+", "_", test)[:120]
    folder.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        warned = [line for lines in pool.map(lambda cluster: _collect(cluster, folder), lab.CLUSTERS) for line in lines]
    return "\n".join([*sorted(warned)[-SHOWN:], f"all of it is in {folder}"])


def _collect(cluster: lab.Cluster, folder: pathlib.Path) -> list[str]:
    kinds = OBJECTS if cluster == lab.HUB else f"{OBJECTS},{MEMBERS_OBJECTS}"
    _write(folder / f"{cluster.name}-objects.yaml", cluster, "get", kinds, "-A", "-o", "yaml")
    _write(
        folder / f"{cluster.name}-events.txt", cluster, "get", "events", "-A", "--sort-by=.metadata.creationTimestamp"
    )
    warned = []
    for pod in _write(
        folder / f"{cluster.name}-pods.txt", cluster, "-n", lab.SYSTEM, "get", "pods", "-o", "name"
    ).split():
        path = folder / f"{cluster.name}-{pod.rpartition('/')[2]}.log"
        text = _write(path, cluster, "-n", lab.SYSTEM, "logs", pod, "--all-containers", f"--since={SINCE}")
        warned += [_summary(cluster, line) for line in text.splitlines() if not _INFO.search(line)]
        if "/cnf-" in pod:
            rules = folder / f"{cluster.name}-{pod.rpartition('/')[2]}.nft"
            _write(rules, cluster, "-n", lab.SYSTEM, "exec", pod, "-c", "cnf", "--", "nft", "list", "ruleset")
    return warned


def _write(path: pathlib.Path, cluster: lab.Cluster, *arguments: str) -> str:
    """Write into a file what kubectl says; return it, nothing when it failed."""
    try:
        text = cluster.kubectl(*arguments, timeout_s=ANSWER_S)
    except lab.CommandError as err:
        path.write_text(f"could not be collected: {err}\n")
        return ""
    path.write_text(text)
    return text


def _summary(cluster: lab.Cluster, line: str) -> str:
    """Return a log line of Fleetboard with its time first; anything else as it is."""
    try:
        fields = json.loads(line)
    except ValueError:
        return f"- {cluster.name} {line[:200]}"
    if not isinstance(fields, dict):
        return f"- {cluster.name} {line[:200]}"
    first = " ".join(str(fields.pop(name, "")) for name in ("ts", "level", "component", "msg"))
    return f"{first[:23]} {cluster.name}{first[29:]} {fields}"[:400]
