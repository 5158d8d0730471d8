"""A ping from a pod that goes on until an answer shows that what it watches is over.

Invariant: no count ends it, and no time of the test's: a ping that ends first shows nothing of what comes after.
"""

from __future__ import annotations

import dataclasses

import lab
import pings

FILE = "/tmp/endless"


@dataclasses.dataclass(frozen=True)
class Ping:
    """One that is under way; a pod has one at a time."""

    pod: lab.Pod
    process: str

    def end(self, *, after: float) -> dict[int, float]:
        """Wait for an answer that came after a time, end the ping, and return the answers as ``pings`` does."""

        def answered() -> bool:
            last = pings.answers(self.pod.sh(f"tail -n 3 {FILE}"))
            return max(last.values(), default=0.0) > after

        lab.eventually(answered, within_s=60, every_s=0.5)
        self.pod.sh(f"kill -INT {self.process}")
        return pings.answers(self.pod.sh(f"cat {FILE}"))


def start(pod: lab.Pod, address: str, *, every_s: float) -> Ping:
    """Begin to ping an address; a test that fails leaves it to end by itself."""
    return Ping(pod, pod.sh(f"ping -D -i {every_s} -w 400 {address} > {FILE} 2>&1 & echo $!").strip())
