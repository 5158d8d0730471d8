"""``python -m cnf.tunnel.userspace``: the container beside cnf that lends it a WireGuard where the kernel has none.

It is a container of its own so that the agent may restart without taking the tunnel along. One invariant: it becomes
wireguard-go or does nothing; what the tunnel holds is the agent's business alone.
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
times slower; what ``--version`` says doesn't tell, for it was never raised after 2023-02."""
TUN = Path("/dev/net/tun")
_TUN_DEVICE = os.makedev(10, 200)
_TRIAL = "fleettrial0"
_HANDOVER_S = 5.0


def kernel_has_wireguard() -> bool:
    """Tell whether the kernel makes WireGuard links, by making one and deleting it.

    Raises:
        DeviceError: it can't be told, for want of NET_ADMIN.
    """
    with device.open_rtnetlink() as rtnetlink:
        supported = device.create(rtnetlink, _TRIAL, device.KERNEL_KIND, mtu=1280)
        if supported:
            rtnetlink.send([links.delete(_TRIAL)])
    return supported


def ensure_tun(path: Path = TUN) -> None:
    """Make the TUN device file where it is missing, and check that it opens.

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
            f"cannot make or open {path}: {err}; expected capabilities MKNOD and NET_ADMIN and a kernel with TUN"
        ) from err


def clear(name: str, *, handover_s: float = _HANDOVER_S) -> None:
    """Remove what a wireguard-go that is gone left behind: its socket, and a link that nobody drives.

    Raises:
        DeviceError: another wireguard-go is running and doesn't end.
    """
    deadline = time.monotonic() + handover_s
    while uapi.answers(name):
        if time.monotonic() >= deadline:
            raise errors.DeviceError(f"another wireguard-go drives {name}: expected to be the only one")
        time.sleep(0.1)
    uapi.socket_path(name).unlink(missing_ok=True)
    with device.open_rtnetlink() as rtnetlink:
        if links.find(rtnetlink, name) is not None:
            log.warning("deleting a link that nobody drives", extra={"link": name})
            rtnetlink.send([links.delete(name)])


def has_offload(program: Path) -> bool:
    """Tell whether this wireguard-go has UDP segmentation offload."""
    return OFFLOAD in program.read_bytes()


def run(name: str) -> None:
    """Become wireguard-go for link ``name``; return only on a signal, where the kernel has WireGuard.

    Raises:
        DeviceError: this container lacks what it takes.
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
    # A signal mask survives exec: wireguard-go must hear SIGTERM.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        os.execve(program, [PROGRAM, "-f", name], environment)  # noqa: S606 - it takes this process' place
    except OSError as err:
        raise errors.DeviceError(f"cannot run {program}: {errno.errorcode.get(err.errno or 0, err)}") from err


def main() -> int:
    """Run; the exit status is 1 with one sentence in the log when this container can't work."""
    logs.configure("wireguard", os.environ.get("LOG_LEVEL", "info"))
    # Blocked before anything else: as a container's first process we would ignore it, and sigwait takes it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        run(sys.argv[1] if len(sys.argv) > 1 else names.TUNNEL_INTERFACE)
    except errors.TunnelError as err:
        log.error(str(err))  # noqa: TRY400 - one sentence, no traceback
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
