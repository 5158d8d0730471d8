"""The tunnel's link: the kernel's WireGuard if the kernel has it, else wireguard-go in the container beside cnf.

Invariant: a link that exists is used as it is. Its kind says what drives it. To make it again would drop every session,
so only a link that neither the kernel's WireGuard nor a running wireguard-go drives is deleted.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from cnf.netlink import connection, links
from cnf.netlink import errors as netlink_errors
from cnf.tunnel import errors
from cnf.tunnel.wireguard import changes, kernel, uapi

log = logging.getLogger(__name__)

KERNEL_KIND = "wireguard"
USERSPACE_KIND = "tun"
WAIT_S = 10.0
"""Seconds to wait for wireguard-go's link and control socket."""
_POLL_S = 0.02
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOENT, errno.EPROTONOSUPPORT)
# What the tunnel needs: forwarding between peers and pods; a loose reverse-path filter, because packets from a fleet
# address may arrive by another link than the route back uses; no redirects.
_SETTINGS = {links.FORWARDING: 1, links.ACCEPT_REDIRECTS: 0, links.SEND_REDIRECTS: 0, links.RP_FILTER: 2}


class WireGuardBackend(Protocol):
    """What drives the link."""

    kind: str

    def read(self) -> changes.ActualDevice:
        """Return the device as it is.

        Raises:
            BackendError: the device is away.
        """

    def apply(self, difference: changes.DeviceChanges) -> None:
        """Write the changes.

        Raises:
            BackendError: refused, or the device is away.
        """


@contextlib.contextmanager
def open_rtnetlink() -> Iterator[connection.Connection]:
    """Open a connection to the kernel for one operation, in the caller's network namespace.

    Raises:
        DeviceError: the kernel refused something inside, or did not answer.
    """
    with connection.Connection(connection.open_socket()) as rtnetlink:
        try:
            yield rtnetlink
        except netlink_errors.NetlinkError as err:
            raise errors.DeviceError(str(err)) from err


def create(rtnetlink: connection.Connection, name: str, kind: str, *, mtu: int) -> bool:
    """Make a link if it does not exist; return False if the kernel does not know that kind.

    Raises:
        RefusedError: refused for another reason.
    """
    try:
        rtnetlink.send([links.create(name, kind, mtu=mtu)])
    except netlink_errors.RefusedError as err:
        if err.code in _UNSUPPORTED:
            return False
        raise
    return True


def ensure(
    rtnetlink: connection.Connection,
    name: str,
    *,
    mtu: int,
    wait_s: float = WAIT_S,
    stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[links.Link, WireGuardBackend]:
    """Return the link and what drives it; make the link if the kernel has WireGuard, else wait for wireguard-go.

    ``stopped`` ends the wait early.

    Raises:
        DeviceAbsentError: wireguard-go did not appear in ``wait_s``, or ``stopped`` became true.
        NetlinkError: the kernel refused.
    """
    deadline = clock() + wait_s
    while True:
        link = links.find(rtnetlink, name)
        if link is not None and link.kind == KERNEL_KIND:
            return link, kernel.KernelWireGuard(name)
        if link is not None and link.kind == USERSPACE_KIND and uapi.answers(name):
            return link, uapi.UserspaceWireGuard(name)
        if link is not None and link.kind not in (KERNEL_KIND, USERSPACE_KIND):
            log.warning("deleting a foreign link that has the tunnel's name", extra={"link": name, "kind": link.kind})
            rtnetlink.send([links.delete(name)])
        elif link is None and create(rtnetlink, name, KERNEL_KIND, mtu=mtu):
            continue
        is_late = clock() >= deadline
        if is_late or stopped():
            raise errors.DeviceAbsentError(_absent(name, link, f" in {wait_s:g} s" if is_late else ""))
        time.sleep(_POLL_S)


def _absent(name: str, link: links.Link | None, waited: str) -> str:
    what = "link" if link is None else "control socket"
    return (
        f"the kernel has no WireGuard and the {what} of {name} did not appear{waited}: "
        "expected the container 'wireguard' of this pod to run wireguard-go"
    )


def configure(rtnetlink: connection.Connection, link: links.Link, *, mtu: int) -> None:
    """Set the link's MTU and IPv4 settings where they differ, and bring it up.

    Raises:
        NetlinkError: the kernel refused.
    """
    if link.mtu != mtu:
        rtnetlink.send([links.set_mtu(link.index, mtu)])
    held = links.read_inet(rtnetlink, link.index)
    settings = {number: value for number, value in _SETTINGS.items() if held.get(number) != value}
    if settings:
        rtnetlink.send([links.set_inet(link.index, settings)])
    if not link.up:
        rtnetlink.send([links.set_up(link.index)])
