from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cnf.tunnel import errors, userspace
from cnf.tunnel.wireguard import uapi

pytestmark = pytest.mark.netns

NAMESPACE = "tun-sidecar"
LINK = "fbt-side"
ROOT = Path(__file__).parents[2]


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


@pytest.fixture
def namespace() -> Iterator[str]:
    sh(f"ip netns add {NAMESPACE}")
    try:
        yield NAMESPACE
    finally:
        sh(f"ip netns del {NAMESPACE}")
        uapi.socket_path(LINK).unlink(missing_ok=True)


@contextlib.contextmanager
def sidecar(namespace: str) -> Iterator[subprocess.Popen[bytes]]:
    command = ["ip", "netns", "exec", namespace, sys.executable, "-m", "cnf.tunnel.userspace", LINK]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def waits_for_signal(process: subprocess.Popen[bytes]) -> bool:
    return "sigtimedwait" in Path(f"/proc/{process.pid}/wchan").read_text() or any(
        "sigtimedwait" in Path(f"/proc/{process.pid}/{name}").read_text() for name in ("stack",)
    )


def links(namespace: str) -> str:
    return sh(f"ip -n {namespace} -brief link")


def name_of(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/comm").read_text().strip()


def test_the_container_becomes_wireguard_go_or_idles_and_ends_on_sigterm(namespace: str) -> None:
    with sidecar(namespace) as process:
        if userspace.kernel_has_wireguard():
            wait_for(lambda: waits_for_signal(process), "the process to idle")
            process.terminate()
            assert process.wait(60) == 0
            return
        wait_for(lambda: uapi.answers(LINK), "control socket")
        assert LINK in links(namespace)
        assert name_of(process) == "wireguard-go"
        process.terminate()
        assert process.wait(60) == 0
    assert LINK not in links(namespace)


def test_a_stale_socket_and_a_link_that_nobody_drives_are_cleared(namespace: str) -> None:
    path = uapi.socket_path(LINK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    sh(f"ip -n {namespace} tuntap add mode tun {LINK}")
    assert not uapi.answers(LINK)
    inside_namespace = "from cnf.tunnel import userspace; userspace.clear('fbt-side')"
    sh(f'cd {ROOT} && ip netns exec {namespace} {sys.executable} -c "{inside_namespace}"')
    assert not path.exists()
    assert LINK not in links(namespace)


def test_a_running_wireguard_go_is_left_alone() -> None:
    path = uapi.socket_path(LINK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        try:
            with pytest.raises(errors.DeviceError, match="another wireguard-go drives fbt-side"):
                userspace.clear(LINK, handover_s=0.3)
            assert path.exists()
        finally:
            path.unlink()


def test_a_missing_tun_device_is_made(tmp_path: Path) -> None:
    path = tmp_path / "net" / "tun"
    userspace.ensure_tun(path)
    made = path.stat()
    assert stat.S_ISCHR(made.st_mode)
    assert made.st_rdev == os.makedev(10, 200)


def test_a_file_that_is_no_tun_device_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "tun").mkdir()
    with pytest.raises(errors.DeviceError, match="expected capabilities MKNOD and NET_ADMIN"):
        userspace.ensure_tun(tmp_path / "tun")


def test_an_old_wireguard_go_is_known_by_what_it_lacks(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_bytes(b"\x7fELF\0conn.supportsUDPOffload\0v0.0.20230223")
    old.write_bytes(b"\x7fELF\0conn.NewStdNetBind\0v0.0.20230223")
    assert userspace.has_offload(new)
    assert not userspace.has_offload(old)
