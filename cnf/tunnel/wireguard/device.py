"""The tunnel's link: the kernel's WireGuard where there is one, else wireguard-go of the container beside us.

One invariant: a link that is there is used as it is. Its kind says who drives it; making it anew would drop every
session, so that happens only to a link that neither the kernel's WireGuard nor a running wireguard-go owns.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from cnf.tunnel import errors
from cnf.tunnel.wireguard import changes, kernel, links, uapi

log = logging.getLogger(__name__)

KERNEL_KIND = "wireguard"
USERSPACE_KIND = "tun"
WAIT_S = 10.0
_POLL_S = 0.02


class WireGuardBackend(Protocol):
    """Whoever drives the link."""

    kind: str

    def read(self) -> changes.ActualDevice:
        """Return the device as it is."""

    def apply(self, wanted: changes.DeviceChanges) -> None:
        """Write the changes."""


def ensure(
    netlink: links.Netlink,
    name: str,
    *,
    mtu: int,
    wait_s: float = WAIT_S,
    stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[links.Link, WireGuardBackend]:
    """Return the link and who drives it; make the link where the kernel has WireGuard, else wait for wireguard-go.

    Raises:
        DeviceAbsentError: wireguard-go did not come in ``wait_s``.
        DeviceError: the kernel refused.
    """
    deadline = clock() + wait_s
    while True:
        link = netlink.find(name)
        if link is not None and link.kind == KERNEL_KIND:
            return link, kernel.KernelWireGuard(name)
        if link is not None and link.kind == USERSPACE_KIND and uapi.answers(name):
            return link, uapi.UserspaceWireGuard(name)
        if link is not None and link.kind not in (KERNEL_KIND, USERSPACE_KIND):
            log.warning("a foreign link has the tunnel's name: deleting it", extra={"link": name, "kind": link.kind})
            netlink.delete(name)
        elif link is None and netlink.create(name, KERNEL_KIND, mtu=mtu):
            continue
        if clock() >= deadline or stopped():
            raise errors.DeviceAbsentError(_absent(name, link, wait_s))
        time.sleep(_POLL_S)


def _absent(name: str, link: links.Link | None, wait_s: float) -> str:
    what = "link" if link is None else "control socket"
    return (
        f"the kernel has no WireGuard and the {what} of {name} did not appear in {wait_s:g} s: "
        "expected the container 'wireguard' of this pod to run wireguard-go"
    )


def configure(netlink: links.Netlink, link: links.Link, *, mtu: int) -> None:
    """Set what differs of the link's MTU and settings, and bring it up."""
    netlink.ensure_mtu(link, mtu)
    links.ensure_settings(link)
    netlink.ensure_up(link)
