"""Finding a pod's namespace again.

One invariant: a namespace found by path is believed only by its cookie: paths and inodes are used again, cookies never.
"""

from __future__ import annotations

import contextlib
import os
import pathlib

from cnf.attach import identity, records
from cnf.netlink import errors, links
from cnf.netlink.namespace import NetworkNamespace


class Pods:
    """The node's folder of namespaces as cnf sees it."""

    def __init__(self, folder: pathlib.Path) -> None:
        """``folder`` is the host's /run/netns, mounted so that new namespaces show up."""
        self._folder = folder

    def open(self, netns: str, *, cookie: int) -> NetworkNamespace | None:
        """Open the namespace that the runtime called ``netns``, if it is still the one with that cookie."""
        found = self.open_unverified(netns)
        if found is None:
            return None
        try:
            if found.cookie == cookie:
                return found
        except errors.NamespaceError:
            pass
        found.close()
        return None

    def open_unverified(self, netns: str) -> NetworkNamespace | None:
        """Open whatever is now where the runtime called something ``netns``."""
        name = pathlib.PurePath(netns).name if netns else ""
        if not name:
            return None
        try:
            return NetworkNamespace.open(self._folder / name)
        except errors.NamespaceError:
            return None

    def leads_to(self, netns: str, namespace: NetworkNamespace) -> bool:
        """Say whether cnf will find ``namespace`` again by that name. While both are open an inode tells."""
        name = pathlib.PurePath(netns).name if netns else ""
        try:
            found, held = os.stat(self._folder / name), os.fstat(namespace.fileno())
        except OSError:
            return False
        return bool(name) and (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)

    def search(self, record: records.Record) -> tuple[str, int]:
        """Return path and cookie of the namespace that holds the far end of ``record``, or nothing. Slow."""
        wanted = identity.alias(*record.key, record.parse_addresses(), record.pod_uid)
        for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else []:
            found = self.open_unverified(path.name)
            if found is None:
                continue
            with found, contextlib.suppress(errors.NetlinkError), found.connect() as inside:
                link = links.find(inside, record.interface)
                if link is not None and link.alias == wanted:
                    return str(path), found.cookie
        return "", 0
