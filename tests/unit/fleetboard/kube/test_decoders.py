"""Threads that read their first objects at once: in a process of its own, because a failure would end the process."""

from __future__ import annotations

import subprocess
import sys

TOGETHER = """
import sys, threading
from fleetboard.kube import encoding, errors
from fleetboard.model import resource
sys.setswitchinterval(1e-6)
kinds = [kind for kind in vars(resource).values() if isinstance(kind, resource.Resource)]
body = (
    b'{"metadata": {"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u"}]},'
    b' "spec": {"cluster": "c", "namespace": "n", "name": "s", "cidr": "10.0.0.0/8", "purpose": "vip", "owner": "o"},'
    b' "status": {"conditions": []}, "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"uid": "u"}}]}'
)
together, read = threading.Barrier(2 * len(kinds)), []
def go(kind):
    together.wait()
    read.append(encoding.decode_page(kind, b'{"metadata": {}, "items": [' + body + b']}'))
    read.append(encoding.decode_or_none(kind, body))
    read.append(errors.from_answer(404, b'{"kind": "Status", "reason": "NotFound"}'))
threads = [threading.Thread(target=go, args=(kind,)) for kind in 2 * kinds]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(read) == 6 * len(kinds)
"""


def test_the_first_objects_may_come_to_all_threads_at_once() -> None:
    for _ in range(8):  # without the lock six of ten such processes die of a segmentation fault
        ended = subprocess.run(
            [sys.executable, "-c", TOGETHER], capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 0, f"ended with {ended.returncode}: {ended.stderr[-500:]}"
