"""A control group with the limits of a Kubernetes container, for both versions of the kernel's interface."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
import secrets
from collections.abc import Iterator

ROOT = pathlib.Path("/sys/fs/cgroup")
PERIOD_US = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """The folders that a process writes its id to, and the files that count its memory."""

    folders: tuple[pathlib.Path, ...]
    peak: pathlib.Path
    events: pathlib.Path

    @property
    def enter(self) -> str:
        """Shell that puts the shell itself into the group."""
        return " && ".join(f"echo $$ >{folder}/cgroup.procs" for folder in self.folders)

    def peak_bytes(self) -> int:
        """Return the peak of its memory, page cache included."""
        return int(self.peak.read_text())

    def killed(self) -> int:
        """Return how many of its processes the kernel killed because memory ran out."""
        found = re.search(r"^oom_kill (\d+)", self.events.read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1])


@contextlib.contextmanager
def limit(*, cpu: float, memory: int) -> Iterator[Group]:
    """Lend a group that is limited to ``cpu`` processors and ``memory`` bytes."""
    name = f"fleetboard-test-{secrets.token_hex(3)}"
    made = _version_two if (ROOT / "cgroup.controllers").exists() else _version_one
    group = made(name, quota_us=int(cpu * PERIOD_US), memory=memory)
    try:
        yield group
    finally:
        for folder in group.folders:
            folder.rmdir()


def _version_one(name: str, *, quota_us: int, memory: int) -> Group:
    counted, timed = ROOT / "memory" / name, ROOT / "cpu" / name
    for folder in (counted, timed):
        folder.mkdir()
    (counted / "memory.limit_in_bytes").write_text(str(memory))
    (timed / "cpu.cfs_period_us").write_text(str(PERIOD_US))
    (timed / "cpu.cfs_quota_us").write_text(str(quota_us))
    return Group((counted, timed), counted / "memory.max_usage_in_bytes", counted / "memory.oom_control")


def _version_two(name: str, *, quota_us: int, memory: int) -> Group:
    (ROOT / "cgroup.subtree_control").write_text("+cpu +memory")
    folder = ROOT / name
    folder.mkdir()
    (folder / "memory.max").write_text(str(memory))
    if (folder / "memory.swap.max").exists():
        (folder / "memory.swap.max").write_text("0")
    (folder / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
    return Group((folder,), folder / "memory.peak", folder / "memory.events")
