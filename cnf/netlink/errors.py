"""Errors of requests to the kernel's rtnetlink.

NetlinkError
├── NamespaceError          a path or descriptor is not a network namespace, or can't be entered
├── SilentKernelError       no answer in time, or one that belongs to another request
├── UnstableError           the kernel's state kept changing meanwhile
└── RefusedError            the kernel refused; ``code`` is its errno
    ├── ExistsError         EEXIST
    ├── AbsentError         ENODEV, ENOENT, ESRCH, EADDRNOTAVAIL
    ├── BusyError           EBUSY: an interface index is taken
    └── DeniedError         EPERM, EACCES

Callers act on the class or on ``code``, never on the text.
"""

from __future__ import annotations

import errno
import os


class NetlinkError(Exception):
    """Root of this package's errors."""


class NamespaceError(NetlinkError):
    """A path or descriptor is not a network namespace, or can't be entered."""


class SilentKernelError(NetlinkError):
    """The kernel didn't answer in time, or answered another request."""


class UnstableError(NetlinkError):
    """The kernel's state kept changing while it was read or written; trying again may succeed."""


class RefusedError(NetlinkError):
    """The kernel refused one message of a batch."""

    def __init__(self, code: int, action: str, detail: str = "") -> None:
        """``action`` says what was requested; ``detail`` is the kernel's own message, or empty."""
        reason = os.strerror(code)
        super().__init__(f"{action}: {reason} ({detail})" if detail else f"{action}: {reason}")
        self.code = code
        self.action = action
        self.detail = detail


class ExistsError(RefusedError):
    """An object of that name or address exists already."""


class AbsentError(RefusedError):
    """The object doesn't exist."""


class BusyError(RefusedError):
    """An interface index is taken."""


class DeniedError(RefusedError):
    """The process lacks a capability in the namespace."""


_CLASSES: dict[int, type[RefusedError]] = {
    errno.EEXIST: ExistsError,
    errno.ENODEV: AbsentError,
    errno.ENOENT: AbsentError,
    errno.ESRCH: AbsentError,
    errno.EADDRNOTAVAIL: AbsentError,
    errno.EBUSY: BusyError,
    errno.EPERM: DeniedError,
    errno.EACCES: DeniedError,
}


def refused(code: int, action: str, detail: str = "") -> RefusedError:
    """Return the error of the class that ``code``, a positive errno, belongs to."""
    return _CLASSES.get(code, RefusedError)(code, action, detail)
