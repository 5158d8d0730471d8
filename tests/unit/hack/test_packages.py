"""``hack/packages`` keeps Debian from starting services, and leaves an administrator's policy as it found it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import stat
import subprocess

import pytest
from polling import wait_until

SCRIPT = pathlib.Path(__file__).parents[3] / "hack/packages"
ADMINISTRATORS = "#!/bin/sh\n# Ask before anything starts.\nexit 104\n"
# Notes the policy that Debian's packages would ask, then does what the test wants.
APT_GET = """#!/bin/sh
[ "$1" = install ] || exit 0
cat "$FLEETBOARD_POLICY_RC_D" >"$NOTES/policy.new"
"$FLEETBOARD_POLICY_RC_D"
echo "$?" >"$NOTES/status"
mv "$NOTES/policy.new" "$NOTES/policy"
case $THEN in
  fail) exit 100 ;;
  wait) exec sleep 60 ;;
esac
"""


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine without any of the packages: stubs on PATH, and a policy of its own."""

    folder: pathlib.Path

    @property
    def policy(self) -> pathlib.Path:
        return self.folder / "policy-rc.d"

    def install_stub(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def write_policy(self, text: str) -> None:
        self.policy.write_text(text)
        self.policy.chmod(0o750)
        os.utime(self.policy, (1, 1))

    def seen(self, name: str) -> str:
        """Return what apt-get noted: the policy's text, or its exit status."""
        return (self.folder / name).read_text().strip()

    def start(self, then: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [SCRIPT, "e2e"],
            env={
                "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                "FLEETBOARD_POLICY_RC_D": str(self.policy),
                "NOTES": str(self.folder),
                "THEN": then,
            },
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def run(self, then: str) -> int:
        """Run the script to its end, or interrupt it and its children while apt-get works."""
        with self.start(then) as process:
            if then == "wait":
                wait_until((self.folder / "policy").exists)
                os.killpg(process.pid, signal.SIGINT)
            return process.wait(timeout=20)


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Machine:
    made = Machine(tmp_path)
    made.install_stub("dpkg-query", "#!/bin/sh\nexit 1\n")
    made.install_stub("apt-get", APT_GET)
    return made


ENDS = pytest.mark.parametrize("then", ["succeed", "fail", "wait"])


@ENDS
def test_an_administrators_policy_decides_and_stays_as_it_is(machine: Machine, then: str) -> None:
    machine.write_policy(ADMINISTRATORS)
    before = machine.policy.stat()
    assert (machine.run(then) == 0) is (then == "succeed")
    assert machine.seen("policy") == ADMINISTRATORS.strip()
    assert machine.policy.read_text() == ADMINISTRATORS
    after = machine.policy.stat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)


@ENDS
def test_an_administrators_link_stays_a_link(machine: Machine, then: str) -> None:
    target = machine.folder / "target"
    target.write_text(ADMINISTRATORS)
    target.chmod(0o755)
    machine.policy.symlink_to(target)
    machine.run(then)
    assert machine.policy.readlink() == target
    assert target.read_text() == ADMINISTRATORS


@ENDS
def test_without_a_policy_no_service_starts_and_none_is_left(machine: Machine, then: str) -> None:
    assert (machine.run(then) == 0) is (then == "succeed")
    assert machine.seen("status") == "101"
    assert not machine.policy.exists()


def test_a_policy_that_a_killed_run_left_is_taken_away_by_the_next(machine: Machine) -> None:
    with machine.start("wait") as process:
        wait_until((machine.folder / "policy").exists)
        os.killpg(process.pid, signal.SIGKILL)
    assert stat.S_IMODE(machine.policy.stat().st_mode) == 0o755
    (machine.folder / "policy").unlink()
    assert machine.run("succeed") == 0
    assert machine.seen("status") == "101"
    assert not machine.policy.exists()


def test_nothing_is_touched_where_nothing_is_missing(machine: Machine) -> None:
    machine.install_stub("dpkg-query", "#!/bin/sh\necho install ok installed\n")
    assert machine.run("fail") == 0
    assert not machine.policy.exists()
