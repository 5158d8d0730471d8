"""``python -m cnf.tunnel.userspace``: runs wireguard-go, in the container beside cnf, if the kernel has no WireGuard.

It is a container of its own so that the tunnel survives a restart of the agent. The process becomes wireguard-go or
does nothing: the agent alone writes what the device holds.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import stat
import sys
import time
from pathlib import Path

from cnf.netlink import links
from cnf.tunnel import errors
from cnf.tunnel.wireguard import device, uapi
from fleetboard.model import names
from fleetboard.runtime import logs

log = logging.getLogger(__name__)

PROGRAM = "wireguard-go"
OFFLOAD = b"supportsUDPOffload"
"""Name of a function in wireguard-go of 2023-12 and later. Older ones have no UDP segmentation offload and are 5 to 7
times slower. The output of ``--version`` does not help: it has not changed since 2023-02."""
TUN = Path("/dev/net/tun")
_TUN_DEVICE = os.makedev(10, 200)
_TRIAL = "fleettrial0"
_HANDOVER_S = 5.0


def kernel_has_wireguard() -> bool:
    """Return whether the kernel makes WireGuard links: make one and delete it.

    Raises:
        DeviceError: the kernel refused for another reason, as without NET_ADMIN.
    """
    with device.open_rtnetlink() as rtnetlink:
        supported = device.create(rtnetlink, _TRIAL, device.KERNEL_KIND, mtu=1280)
        if supported:
            rtnetlink.send([links.delete(_TRIAL)])
    return supported


def ensure_tun(path: Path = TUN) -> None:
    """Make the TUN device file if it is missing, and check that it opens.

    Raises:
        DeviceError: this container may not make or open it.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.mknod(path, stat.S_IFCHR | 0o600, _TUN_DEVICE)
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as err:
        raise errors.DeviceError(
            f"can't make or open {path}: {err}; expected capabilities MKNOD and NET_ADMIN and a kernel with TUN"
        ) from err


def clear(name: str, *, handover_s: float = _HANDOVER_S) -> None:
    """Remove what a wireguard-go that ended left behind: its socket, and a link that nothing drives.

    Raises:
        DeviceError: another wireguard-go runs and does not end.
    """
    deadline = time.monotonic() + handover_s
    while uapi.answers(name):
        if time.monotonic() >= deadline:
            raise errors.DeviceError(f"another wireguard-go drives {name}: expected to be the only one")
        time.sleep(0.1)
    uapi.socket_path(name).unlink(missing_ok=True)
    with device.open_rtnetlink() as rtnetlink:
        if links.find(rtnetlink, name) is not None:
            log.warning("deleting a link that nothing drives", extra={"link": name})
            rtnetlink.send([links.delete(name)])


def has_offload(program: Path) -> bool:
    """Return whether this wireguard-go has UDP segmentation offload."""
    return OFFLOAD in program.read_bytes()


def run(name: str) -> None:
    """Become wireguard-go for link ``name``. If the kernel has WireGuard, wait for a signal and return.

    Raises:
        DeviceError: this container lacks a program, a file or a capability.
    """
    if kernel_has_wireguard():
        log.info("the kernel has WireGuard: nothing to do")
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
        return
    program = shutil.which(PROGRAM)
    if program is None:
        raise errors.DeviceError(f"the kernel has no WireGuard and {PROGRAM} is not on PATH")
    ensure_tun()
    clear(name)
    if not has_offload(Path(program)):
        log.warning("wireguard-go is older than 2023-12 and several times slower", extra={"program": program})
    environment = os.environ | {"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"}
    log.info("starting wireguard-go", extra={"link": name})
    # A signal mask survives exec, and wireguard-go must receive SIGTERM.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        os.execve(program, [PROGRAM, "-f", name], environment)  # noqa: S606 - it takes this process' place
    except OSError as err:
        raise errors.DeviceError(f"can't run {program}: {errno.errorcode.get(err.errno or 0, err)}") from err


def main() -> int:
    """Run; return 1, with one sentence in the log, if this container can't work."""
    logs.configure("wireguard", os.environ.get("LOG_LEVEL", "info"))
    # Blocked before anything else: a container's first process ignores a signal without a handler. sigwait takes it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        run(sys.argv[1] if len(sys.argv) > 1 else names.TUNNEL_INTERFACE)
    except errors.TunnelError as err:
        log.error("%s", err)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
