"""Pods that fetch from each other five times a second, and how long each could not: the measure of every failure.

Invariant: times are the machine's one clock, that of the pods and of the test alike.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import lab

PORT = 8080
TIMEOUT_S = 1.5
"""Of an attempt."""
SCRIPT = pathlib.Path(__file__).with_name("pulse_pod.py").read_text()
STEADY = 20
"""Answers in a row, four seconds of them: then a target counts as well, for no earlier attempt is still under way."""


@dataclasses.dataclass(frozen=True)
class Note:
    """One attempt: when it began and ended, what it was for, and the answer or ``!`` and the error."""

    began: float
    ended: float
    label: str
    answer: str

    @property
    def good(self) -> bool:
        return not self.answer.startswith("!")


def deployment(name: str, namespace: str, *, node: str, side: str) -> dict[str, Any]:
    """Make a pulse pod on a node; its Service selects ``side``."""
    command = ["python3", "-u", "-c", SCRIPT]
    made = lab.make_deployment(name, namespace, node=node, command=command, probe_port=PORT, cpu=lab.MEASURED)
    template = made["spec"]["template"]
    template["metadata"]["labels"]["side"] = side
    spec = template["spec"]
    spec["volumes"] = [{"name": "pulse", "emptyDir": {}}]
    spec["containers"][0]["volumeMounts"] = [{"name": "pulse", "mountPath": "/pulse"}]
    # A lost datagram must not look like five seconds without an answer, nor a name cost eight questions.
    options = {"timeout": "1", "attempts": "2", "ndots": "2"}
    spec["dnsConfig"] = {"options": [{"name": name, "value": value} for name, value in options.items()]}
    return made


def service(name: str, namespace: str, *, side: str) -> dict[str, Any]:
    """Make a Service of a side's pods."""
    made = lab.make_service(name, namespace, ("http", "TCP", PORT, PORT))
    made["spec"]["selector"] = {"side": side}
    return made


def aim(pod: lab.Pod, targets: Mapping[str, str]) -> None:
    """Make a pod fetch from these from now on: label to name or address."""
    lines = "".join(f"{label} {target}\n" for label, target in targets.items())
    pod.exec("sh", "-c", "cat > /pulse/new && mv /pulse/new /pulse/targets", stdin=lines)


def notes(pod: lab.Pod, since: float) -> list[Note]:
    """Return what a pod noted of attempts at its targets that ended after ``since``."""
    targets, lines = pod.sh(f"cat /pulse/targets; echo; awk '$2 >= {since:.3f}' /pulse/notes").split("\n\n", 1)
    aimed = {line.split()[0] for line in targets.splitlines()}
    found = []
    for line in lines.splitlines():
        began, ended, label, answer = line.split(" ", 3)
        if label in aimed:
            found.append(Note(float(began), float(ended), label, answer))
    return sorted(found, key=lambda note: note.began)


def gaps(pod: lab.Pod, since: float, *, steady: int = STEADY) -> dict[str, float]:
    """Return for each label how long after ``since`` it took until all went well again, 0 when nothing failed.

    Raises:
        AssertionError: one is not well yet.
    """
    by_label: dict[str, list[Note]] = {}
    for note in notes(pod, since):
        by_label.setdefault(note.label, []).append(note)
    assert by_label, f"{pod.name} noted nothing since"
    now = time.time()
    result = {}
    for label, of_label in by_label.items():
        lost = [index for index, note in enumerate(of_label) if not note.good]
        after = of_label[lost[-1] + 1 :] if lost else of_label
        tail = of_label[-1]
        assert len(after) >= steady, f"{pod.name} {label}: last {tail.answer}, {len(after)} good in a row"
        assert now - tail.ended < 2, f"{pod.name} {label}: no attempt since {now - tail.ended:.1f} s"
        result[label] = round(after[0].ended - since, 1) if lost else 0.0
    return result


def wait_well(pod: lab.Pod, since: float, *, within_s: float, steady: int = STEADY) -> dict[str, float]:
    """Wait until every target of a pod is well, and return the gaps."""
    return lab.eventually(lambda: gaps(pod, since, steady=steady) or None, within_s=within_s, every_s=0.5) or {}
