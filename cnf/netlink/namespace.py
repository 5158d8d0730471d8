"""Handles of network namespaces: which one it is, and sockets inside it.

Invariant: no thread that does anything else changes its namespace. A socket stays in the namespace where it was opened.
So a short-lived thread opens it there, and any thread uses it.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import os
import pathlib
import socket
import struct
import threading
import types
from collections.abc import Callable

from cnf.netlink import connection, errors
from fleetboard.model.addresses import Address

_NS_GET_NSTYPE = 0xB703
_CLONE_NEWNET = 0x40000000
_SO_NETNS_COOKIE = 71
_UNUSED = ipaddress.IPv4Address("203.0.113.255")
"""From a network for documentation, so no namespace has it."""


def _set_namespace(descriptor: int) -> None:
    if hasattr(os, "setns"):  # from Python 3.12
        os.setns(descriptor, _CLONE_NEWNET)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def cookie_of(sock: socket.socket) -> int:
    """Return the number of the socket's namespace, which is never reused while the machine runs (Linux 5.14)."""
    try:
        return int(struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])
    except OSError as err:
        raise errors.NamespaceError(f"the kernel gives no namespace cookie (needs Linux 5.14): {err}") from err


class NetworkNamespace:
    """One network namespace, kept alive by the descriptor this owns until ``close``."""

    def __init__(self, descriptor: int, *, label: str) -> None:
        """Take over ``descriptor``.

        Raises:
            NamespaceError: it is not a network namespace, and is closed.
        """
        self.label = label
        self._descriptor = descriptor
        self._cookie = 0
        try:
            kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
        except OSError:
            kind = 0
        if kind != _CLONE_NEWNET:
            os.close(descriptor)
            raise errors.NamespaceError(f"{label} is not a network namespace")

    @classmethod
    def open(cls, path: pathlib.Path | str) -> NetworkNamespace:
        """Open the namespace at ``path``.

        Raises:
            NamespaceError: nothing is at the path, or no network namespace.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as err:
            raise errors.NamespaceError(f"{path} can't be opened: {err.strerror}") from err
        return cls(descriptor, label=str(path))

    @classmethod
    def current(cls) -> NetworkNamespace:
        """Open the calling thread's namespace."""
        return cls.open("/proc/thread-self/ns/net")

    def __enter__(self) -> NetworkNamespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    @property
    def cookie(self) -> int:
        """The namespace's number (``cookie_of``)."""
        if not self._cookie:
            with self.open_socket() as sock:
                self._cookie = cookie_of(sock)
        return self._cookie

    def open_socket(self) -> socket.socket:
        """Open an rtnetlink socket inside.

        Raises:
            NamespaceError: it can't be entered (CAP_SYS_ADMIN).
        """
        return self.open_inside(connection.open_socket)

    def holds(self, address: Address) -> bool:
        """Return whether the namespace has ``address``: only then can a socket bind to it.

        Raises:
            NamespaceError: it can't be entered (CAP_SYS_ADMIN).
        """
        # A namespace that never had an IPv4 address counts every one as local (the kernel's inet_addr_type).
        return self._binds(address) and not (address.version == 4 and self._binds(_UNUSED))

    def _binds(self, address: Address) -> bool:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with self.open_inside(lambda: socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)) as sock:
            try:
                sock.bind((str(address), 0))
            except OSError:
                return False
            return True

    def open_inside(self, opener: Callable[[], socket.socket]) -> socket.socket:
        """Return the socket that ``opener`` opens inside.

        Raises:
            NamespaceError: it can't be entered (CAP_SYS_ADMIN).
        """
        box: list[socket.socket | OSError] = []

        def enter() -> None:
            try:
                _set_namespace(self._descriptor)
                box.append(opener())
            except OSError as err:
                box.append(err)

        thread = threading.Thread(target=enter, name="setns")
        thread.start()
        thread.join()
        result = box[0]
        if isinstance(result, OSError):
            raise errors.NamespaceError(f"{self.label} can't be entered: {result}") from result
        return result

    def connect(self, *, timeout_s: float = 10) -> connection.Connection:
        """Open a connection to the kernel inside."""
        sock = self.open_socket()
        if not self._cookie:
            self._cookie = cookie_of(sock)
        return connection.Connection(sock, timeout_s=timeout_s)
