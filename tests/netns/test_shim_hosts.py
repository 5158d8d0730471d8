"""The packed executable in hostile environments, without libc, with a noexec /tmp (CNI 29 and 30 in README.md)."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import shutil

import limits
import packed_shim
import pytest
import shim_node
from netlab import Net
from shim_node import Answer, Node, environ

from cni import install

pytestmark = pytest.mark.netns

CONFIG = json.dumps(shim_node.CONFIG).encode()


def attaches(node: Node, answer: Answer, pod: Net) -> bool:
    """Return whether that was a clean ADD."""
    assert (answer.status, answer.stderr) == (0, b"")
    return answer.content["ips"][0]["address"] == "10.112.4.1/32" and pod.answers_ping("10.112.4.0")


def test_pythons_and_the_loaders_variables_change_nothing(node: Node, tmp_path: pathlib.Path) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    for module in ("encodings", "codecs", "_socket", "posix", "shim", "sitecustomize", "usercustomize"):
        (trap / f"{module}.py").write_text("raise SystemExit('trapped')\n")
    for library in ("libc.so.6", "libz.so.1", "libdl.so.2", "libm.so.6"):
        (trap / library).write_bytes(b"no library")
    hostile = {
        "PYTHONPATH": str(trap),
        "PYTHONHOME": str(trap),
        "PYTHONSTARTUP": str(trap / "shim.py"),
        "PYTHONINSPECT": "1",
        "PYTHONVERBOSE": "1",
        "PYTHONMALLOC": "debug",
        "PYTHONIOENCODING": "utf-16",
        "PYTHONWARNINGS": "error",
        "LC_ALL": "de_DE.ISO-8859-1",
        "LD_LIBRARY_PATH": str(trap),
        "TMPDIR": "/nonexistent",
        "GLIBC_TUNABLES": "glibc.malloc.check=3",
        "TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "BAGGAGE": "k=v",
        "_MEIPASS2": str(trap),
        "PYINSTALLER_RESET_ENVIRONMENT": "1",
        "_PYI_ARCHIVE_FILE": str(trap / "libc.so.6"),
        "_PYI_APPLICATION_HOME_DIR": str(trap),
        "_PYI_PARENT_PROCESS_LEVEL": "9",
    }
    pod = node.nets.make()
    assert attaches(node, node.execute({**environ("ADD", "one", pod), **hostile}, CONFIG), pod)


@pytest.mark.parametrize("variable", ["LD_PRELOAD", "LD_AUDIT"])
def test_what_the_host_loads_into_its_programs_is_not_loaded_into_ours(node: Node, variable: str) -> None:
    """The executable has no dynamic loader that would read these."""
    pod = node.nets.make()
    # By a shell within, since whatever starts the shell would be met by it as well.
    preloaded = ["sh", "-c", f"{variable}=/nonexistent/hook.so exec {node.shim}"]
    answer = node.execute({**environ("ADD", "one", pod), "PATH": os.environ["PATH"]}, CONFIG, program=preloaded)
    assert attaches(node, answer, pod)


def test_a_tmp_that_runs_nothing_does_not_matter(node: Node) -> None:
    elsewhere = packed_shim.install(packed_shim.pack(), packed_shim.STORE / "installed")
    pod = node.nets.make()
    prepare = "mount -t tmpfs -o noexec,ro tmpfs /tmp"
    answer = node.execute(environ("ADD", "one", pod), CONFIG, prepare=prepare, program=[str(elsewhere)])
    assert attaches(node, answer, pod)


@pytest.mark.parametrize("proc", [True, False])
def test_a_host_without_libc_will_do(node: Node, tmp_path: pathlib.Path, proc: bool) -> None:
    root = tmp_path / "root"
    for folder in ("opt/cni/bin", "run/fleetboard", "run/netns", "etc", "proc"):
        (root / folder).mkdir(parents=True)
    packed_shim.install(packed_shim.pack(), root / "opt/cni/bin")
    # Made for the host's programs, not for ours.
    (root / "etc/ld.so.preload").write_text("/opt/cni/bin/hook.so\n")
    (root / "opt/cni/bin/hook.so").write_bytes(b"no library")
    assert {path.name for path in root.iterdir()} == {"opt", "run", "etc", "proc"}
    mounts = {node.run: "run/fleetboard", "/run/netns": "run/netns"} | ({"/proc": "proc"} if proc else {})
    prepare = " && ".join(f"mount --rbind {source} {root}/{place}" for source, place in mounts.items())
    chroot = ["/usr/sbin/chroot", str(root), "/opt/cni/bin/fleetboard"]
    pod = node.nets.make()
    assert attaches(node, node.execute(environ("ADD", "one", pod), CONFIG, prepare=prepare, program=chroot), pod)
    assert node.execute(environ("DEL", "one", pod), CONFIG, prepare=prepare, program=chroot) == Answer(0, b"", b"")


def test_it_works_ten_at_once_within_multus_default_limits(node: Node, tmp_path: pathlib.Path) -> None:
    """As the daemon of Multus runs it: within its own limits, which are these since v4.0."""
    node.shim = packed_shim.install(packed_shim.pack(), tmp_path / "bin")
    with node.shim.open("rb") as executable:
        # So that reading it in is counted as well.
        os.posix_fadvise(executable.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    pods = {f"c{number}": node.nets.make() for number in range(10)}
    with limits.limit(cpu=0.1, memory=50 << 20) as group, concurrent.futures.ThreadPoolExecutor(10) as runtimes:
        for verb in ("ADD", "DEL"):
            calls = [
                runtimes.submit(node.execute, environ(verb, *pod), CONFIG, prepare=group.enter) for pod in pods.items()
            ]
            answers = [call.result() for call in calls]
            assert {(answer.status, answer.stderr) for answer in answers} == {(0, b"")}
        print(f"\n10 at once take {group.peak_bytes() / (1 << 20):.0f} MB of the group's 50")
        assert group.killed() == 0


def test_calls_go_on_while_another_version_is_installed(node: Node, tmp_path: pathlib.Path) -> None:
    target = tmp_path / "bin"
    packed_shim.install(packed_shim.pack(), target)
    node.shim = target / install.NAME
    pod = node.nets.make()
    with node.start(environ("ADD", "one", pod)) as process:
        other = tmp_path / "other"
        shutil.copytree(packed_shim.pack(), other)
        (other / "README").write_text("another version")
        install.install(other, target=target)
        stdout, _ = process.communicate(CONFIG, timeout=20)
    assert (process.returncode, json.loads(stdout)["ips"][0]["address"]) == (0, "10.112.4.1/32")
    assert node.call("DEL", "one", pod).status == 0
