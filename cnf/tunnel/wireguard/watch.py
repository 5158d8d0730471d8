"""Watches the tunnel's link: wireguard-go takes it away when it ends, and makes a new one when it starts.

Invariant: a notice that could not be read (the kernel's buffer overflowed) counts as a change.
"""

from __future__ import annotations

import errno
import select
import socket
import threading
from collections.abc import Callable

from cnf.netlink import connection, links

_POLL_S = 0.5
"""How often ``stop`` is checked."""
_RECEIVE = 1 << 16


def watch(name: str, on_change: Callable[[], None], stop: threading.Event) -> None:
    """Call ``on_change`` at each change of link ``name`` in this thread's namespace, until ``stop``."""
    with connection.open_socket() as notices:
        notices.bind((0, links.GROUP))
        while not stop.is_set():
            readable, _, _ = select.select([notices], [], [], _POLL_S)
            if readable and _concerns(notices, name):
                on_change()


def _concerns(notices: socket.socket, name: str) -> bool:
    try:
        return name in links.changed_names(notices.recv(_RECEIVE))
    except OSError as err:
        if err.errno == errno.ENOBUFS:
            return True
        raise
