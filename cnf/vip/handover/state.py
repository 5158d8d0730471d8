"""Leaves firewall and translated connections to the cnf that comes after a replaced pod, and takes them over.

A new pod is a new network namespace with empty tables. One invariant: nothing is forwarded in it before the firewall
stands: the one that was left, else one that forwards nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import threading
import time
import zlib

from cnf.netlink.namespace import NetworkNamespace
from cnf.vip import errors, nftables, transaction, writer
from cnf.vip.handover import files, flows

_log = logging.getLogger(__name__)

PERIOD_S = 3.0
SHARE = 30
"""Between two rounds pass at least so many times what the first took: large tables are taken down less often."""

_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


@dataclasses.dataclass(frozen=True, slots=True)
class TakenOver:
    """What a start found: a firewall, and so many connections put back."""

    firewall: bool = False
    connections: int = 0
    standing: bool = False
    """The namespace is the one that the former process worked in: tunnel and connections are in the kernel."""


class Keeping:
    """Of one network namespace: that of the threads which call it.

    ``take_over`` is the first thing a process does; ``run`` keeps for the next one, until it is stopped and once then.
    """

    def __init__(
        self,
        vips: writer.VipPlane,
        *,
        owner: str,
        state_dir: pathlib.Path,
        run_dir: pathlib.Path,
        boot: str | None = None,
    ) -> None:
        """``state_dir`` gets the firewall, which changes seldom; ``run_dir``, in memory, the connections.

        ``owner`` names the node in its clusterset: what another one left is not taken over.
        """
        self._rules, self._flows = state_dir / "firewall", run_dir / "connections"
        self._vips = vips
        boot = _BOOT_ID.read_text().strip() if boot is None else boot
        with NetworkNamespace.current() as current:
            self._origin = files.Origin(owner, boot, current.cookie)
        self._written = 0
        self._problem = ""

    def take_over(self) -> TakenOver:
        """Put in force what the former pod left; what isn't there the API will tell.

        Raises:
            VipError: not even that nothing is forwarded can be put in force; no pod may be wired.
        """
        if nftables.serving() is not None:
            return TakenOver(firewall=True, standing=True)
        standing = transaction.table_awake() is not None  # the former process ended before it had filled the table
        rules = self._read(self._rules)
        put = rules is not None and self._put(rules.content)
        if not put:
            nftables.apply(nftables.BARE)
        return TakenOver(firewall=put, connections=self._put_connections_back(), standing=standing)

    def run(self, stop: threading.Event) -> None:
        """Keep what a successor needs, every few seconds and at the end."""
        pause_s = PERIOD_S
        while not stop.wait(pause_s):
            pause_s = max(PERIOD_S, SHARE * self._try())
        self._try()

    def keep(self) -> None:
        """Write down what the kernel holds now; where one of the two can't be, the other is.

        Raises:
            VipError: it can't be read or written.
        """
        try:
            taken_s = files.now_s()
            files.write(self._flows, flows.take_down(), origin=self._origin, taken_s=taken_s)
        finally:
            self._keep_firewall()

    def _keep_firewall(self) -> None:
        version = self._vips.version
        if version == self._written:
            return
        whole = self._vips.render()
        if whole is not None:
            content = zlib.compress(whole.rules.encode() + b"\0" + whole.elements.content, 1)
            files.write(self._rules, content, origin=self._origin, taken_s=files.now_s())
            self._written = version

    def _try(self) -> float:
        started = time.monotonic()
        problem = ""
        try:
            self.keep()
        except errors.VipError as err:
            problem = str(err)
        if problem and problem != self._problem:
            _log.error("not everything is kept for a successor", extra={"error": problem})
        self._problem = problem
        return time.monotonic() - started

    def _read(self, path: pathlib.Path) -> files.Kept | None:
        found = files.read(path)
        if found is not None and found.origin.owner != self._origin.owner:
            extra = {"path": str(path), "of": found.origin.owner, "node": self._origin.owner}
            _log.error("what is kept is another node's and is not used", extra=extra)
            return None
        return found

    def _put(self, content: bytes) -> bool:
        try:
            rules, parted, filling = zlib.decompress(content).partition(b"\0")
            if parted:
                writer.put(writer.Whole(rules.decode(), transaction.Batch(filling)))
            else:
                nftables.apply(rules.decode())  # of a cnf that had nft write the elements as well
        except (errors.VipError, zlib.error, UnicodeError) as err:
            # Of another version of cnf or of another kernel, or too much for nft's memory.
            _log.warning("the former firewall is not put back", extra={"error": str(err)})
            return False
        return True

    def _put_connections_back(self) -> int:
        taken = self._read(self._flows)
        if taken is None or taken.origin.boot != self._origin.boot:
            return 0
        try:
            return flows.put_back(taken.content, age_s=taken.age_s)
        except errors.VipError as err:
            _log.error("the former connections are not put back", extra={"error": str(err)})
            return 0
