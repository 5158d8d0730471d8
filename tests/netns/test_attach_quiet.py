"""ADD and DEL as the kernel sees them: no process starts, no table is dumped, few messages are sent.

strace traces every thread of a cnf that serves in a process of its own.
"""

from __future__ import annotations

import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import cni_process
import pytest
import shim_node
from netlab import Net, Nets
from shim_node import Node

pytestmark = pytest.mark.netns

NEWLINK = 16
CREATE, DUMP = 0x400, 0x300
NAMED = {"NLM_F_REQUEST": 0x1, "NLM_F_ACK": 0x4}
CALLS = "trace=clone,clone3,fork,vfork,execve,sendto,sendmsg"


@pytest.fixture
def trace(
    nets: Nets, tmp_path: pathlib.Path, shim: pathlib.Path, eventually: Callable[[Callable[[], object]], None]
) -> Iterator[Callable[[Callable[[Node], None]], list[str]]]:
    """Lend a function that lets pods come and go and returns the serving process' system calls meanwhile."""
    with shim_node.make_node(nets, tmp_path, shim) as node:
        path = node.run / "cni.sock"
        with cni_process.start(tmp_path / "other", node_netns=node.node_netns, socket_path=path) as cnf:
            try:
                eventually(lambda: path.exists() or cnf.poll() is not None)
                yield lambda work: traced(cnf.pid, tmp_path / "trace", lambda: work(node))
            finally:
                cnf.kill()


def is_traced(process: int, tracer: int) -> bool:
    """Return whether every thread is traced: strace attaches to one after the other."""
    threads = pathlib.Path(f"/proc/{process}/task").iterdir()
    return all(f"TracerPid:\t{tracer}\n" in (thread / "status").read_text() for thread in threads)


def traced(process: int, log: pathlib.Path, work: Callable[[], None]) -> list[str]:
    command = ["strace", "-f", "-qq", "-v", "-s", "64", "-o", str(log), "-e", CALLS, "-p", str(process)]
    with subprocess.Popen(command) as strace:
        while not is_traced(process, strace.pid):
            assert strace.poll() is None
            time.sleep(0.01)
        work()
        strace.send_signal(signal.SIGINT)
    # strace writes an interrupted call in two parts, with the arguments in the first.
    return [line for line in log.read_text().splitlines() if "resumed" not in line]


def netlink(lines: list[str]) -> list[tuple[int, int]]:
    """Return type and flags of every netlink message that was sent."""
    found: list[tuple[int, int]] = []
    for kind, flags in re.findall(r"nlmsg_type=(\w+).*?nlmsg_flags=([^,]+),", "\n".join(lines)):
        # strace doesn't recognize sockets of other namespaces, and writes numbers.
        found.append((int(kind, 0), sum(NAMED.get(flag) or int(flag, 0) for flag in flags.split("|"))))
    return found


def test_no_process_is_started_and_no_table_is_read(trace: Callable[[Callable[[Node], None]], list[str]]) -> None:
    def come_and_go(node: Node) -> None:
        pods: dict[str, Net] = {f"c{number}": node.nets.make() for number in range(4)}
        for verb in ("ADD", "DEL"):
            for name, pod in pods.items():
                assert node.call(verb, name, pod).status == 0

    calls = trace(come_and_go)
    begun = [line for line in calls if re.search(r"\b(clone3?|v?fork|execve)\(", line)]
    assert begun  # of the threads that open sockets in the pods' namespaces
    assert [line for line in begun if "CLONE_THREAD" not in line] == []
    messages = netlink(calls)
    assert sum(1 for kind, flags in messages if kind == NEWLINK and flags & CREATE) == 4
    # rtnetlink's types go by fours: new, delete, get, set.
    assert [(kind, flags) for kind, flags in messages if kind % 4 == 2 and flags & DUMP] == []
