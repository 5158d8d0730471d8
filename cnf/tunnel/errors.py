"""Errors of the tunnel.

TunnelError
├── KeyRefusedError          a private or public key is malformed
├── EndpointRefusedError     an endpoint isn't ``host:port``
├── MtuRefusedError          an MTU is out of range
├── DeviceError              the link, an address or a route can't be made or changed
│   └── DeviceAbsentError    the link did not appear in time: the wireguard container isn't running
└── BackendError             WireGuard refused a change, or went away
"""

from __future__ import annotations


class TunnelError(Exception):
    """Root of the tree."""


class KeyRefusedError(TunnelError, ValueError):
    """A key is not 32 bytes in base64."""


class EndpointRefusedError(TunnelError, ValueError):
    """An endpoint is not ``host:port``."""


class MtuRefusedError(TunnelError, ValueError):
    """An MTU is out of range."""


class DeviceError(TunnelError):
    """The link, its addresses or its routes can't be made or changed: the kernel refused, or gave no answer."""


class DeviceAbsentError(DeviceError):
    """The link or its control socket did not appear, or the wait ended early."""


class BackendError(TunnelError):
    """WireGuard refused a change or went away.

    Attributes:
        errno: Of its answer; 0 without an answer.
    """

    def __init__(self, message: str, *, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno
