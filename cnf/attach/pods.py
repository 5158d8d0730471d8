"""Finds a pod's namespace again.

Invariant: a namespace that is opened by its path counts as the pod's only if its cookie matches. Paths and inodes are
reused; cookies never are.
"""

from __future__ import annotations

import contextlib
import os
import pathlib

from cnf.attach import identity, records
from cnf.netlink import errors, links
from cnf.netlink.namespace import NetworkNamespace


class Pods:
    """The node's folder of network namespaces, as cnf sees it."""

    def __init__(self, folder: pathlib.Path) -> None:
        """``folder`` is the host's /run/netns, mounted so that new namespaces appear in it."""
        self._folder = folder

    def open(self, netns: str, *, cookie: int) -> NetworkNamespace | None:
        """Open the namespace that the runtime calls ``netns``, if it still has that cookie."""
        namespace = self.open_unverified(netns)
        if namespace is None:
            return None
        try:
            if namespace.cookie == cookie:
                return namespace
        except errors.NamespaceError:
            pass
        namespace.close()
        return None

    def open_unverified(self, netns: str) -> NetworkNamespace | None:
        """Open the namespace that is now at the runtime's path ``netns``, whichever it is."""
        name = pathlib.PurePath(netns).name if netns else ""
        if not name:
            return None
        try:
            return NetworkNamespace.open(self._folder / name)
        except errors.NamespaceError:
            return None

    def leads_to(self, netns: str, namespace: NetworkNamespace) -> bool:
        """Return whether cnf finds ``namespace`` by that path. Equal inodes prove it while both are open."""
        name = pathlib.PurePath(netns).name if netns else ""
        try:
            at_path, held = os.stat(self._folder / name), os.fstat(namespace.fileno())
        except OSError:
            return False
        return bool(name) and (at_path.st_dev, at_path.st_ino) == (held.st_dev, held.st_ino)

    def search(self, record: records.Record) -> tuple[str, int]:
        """Return path and cookie of the namespace with the far end of ``record``; without one "" and 0. Slow."""
        wanted = identity.alias(*record.key, record.parse_addresses(), record.pod_uid)
        for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else []:
            namespace = self.open_unverified(path.name)
            if namespace is None:
                continue
            with namespace, contextlib.suppress(errors.NetlinkError), namespace.connect() as inside:
                link = links.find(inside, record.interface)
                if link is not None and link.alias == wanted:
                    return str(path), namespace.cookie
        return "", 0
