"""Hands firewall and translated connections over from a replaced pod's cnf to the next one.

A new pod is a new network namespace with empty tables. So every few seconds, and once more when it stops, a cnf saves
two files: the connections, as the kernel lists them, and the firewall, when it changed. The next cnf restores the
firewall first and then the connections, because the kernel derives their translation from its rules. Files of another
node are ignored. Connections of another boot are ignored too, since their age is unknown.

Invariant: nothing is forwarded before a firewall is in force: the saved one, or one that forwards nothing.
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

log = logging.getLogger(__name__)

PERIOD_S = 3.0
"""How often the state is saved. A pod that is killed loses the connections of the last period."""
REST_FACTOR = 30
"""The pause after saving, in multiples of the time it took: large tables are saved less often."""

_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


@dataclasses.dataclass(frozen=True, slots=True)
class TakenOver:
    """What a start found: whether a firewall, and how many connections it restored."""

    firewall: bool = False
    connections: int = 0
    same_namespace: bool = False
    """Whether the former process worked in this namespace: then tunnel and connections are still in the kernel."""


class Handover:
    """Saves and restores the state of one network namespace: that of the threads that call it.

    Call ``take_over`` before anything else; ``run`` saves for the next process.
    """

    def __init__(
        self,
        firewall_writer: writer.FirewallWriter,
        *,
        owner: str,
        state_dir: pathlib.Path,
        run_dir: pathlib.Path,
        boot: str | None = None,
    ) -> None:
        """``state_dir`` gets the firewall, which changes seldom; ``run_dir``, in memory, gets the connections.

        ``owner`` names the node in its clusterset: another owner's files are ignored.
        """
        self._rules, self._flows = state_dir / "firewall", run_dir / "connections"
        self._firewall_writer = firewall_writer
        boot = _BOOT_ID.read_text().strip() if boot is None else boot
        with NetworkNamespace.current() as current:
            self._origin = files.HandoverOrigin(owner, boot, current.cookie)
        self._written = 0
        self._problem = ""

    def take_over(self) -> TakenOver:
        """Put in force what the former pod left; the API supplies the rest later.

        Raises:
            VipError: not even a firewall that forwards nothing can be put in force; no pod may be wired.
        """
        if nftables.serving() is not None:
            return TakenOver(firewall=True, same_namespace=True)
        # A table that doesn't serve: the former process ended before it had filled it.
        same_namespace = transaction.table_active() is not None
        rules = self._read(self._rules)
        restored = rules is not None and self._restore_firewall(rules.content)
        if not restored:
            nftables.apply(nftables.CLOSED_ONLY)
        return TakenOver(firewall=restored, connections=self._restore_connections(), same_namespace=same_namespace)

    def run(self, stop: threading.Event) -> None:
        """Save for the next process, every few seconds and at the end."""
        pause_s = PERIOD_S
        while not stop.wait(pause_s):
            pause_s = max(PERIOD_S, REST_FACTOR * self._try_save())
        self._try_save()

    def save(self) -> None:
        """Save what the kernel holds now; if one of the two files fails, the other is still written.

        Raises:
            VipError: the kernel's state can't be read, or a file can't be written.
        """
        try:
            taken_s = files.now_s()
            files.write(self._flows, flows.read(), origin=self._origin, taken_s=taken_s)
        finally:
            self._save_firewall()

    def _save_firewall(self) -> None:
        version = self._firewall_writer.version
        if version == self._written:
            return
        whole = self._firewall_writer.render()
        if whole is not None:
            content = zlib.compress(whole.rules.encode() + b"\0" + whole.elements.content, 1)
            files.write(self._rules, content, origin=self._origin, taken_s=files.now_s())
            self._written = version

    def _try_save(self) -> float:
        started = time.monotonic()
        problem = ""
        try:
            self.save()
        except errors.VipError as err:
            problem = str(err)
        if problem and problem != self._problem:
            log.error("could not save state for the next cnf, retrying", extra={"error": problem})
        self._problem = problem
        return time.monotonic() - started

    def _read(self, path: pathlib.Path) -> files.HandoverFile | None:
        saved = files.read(path)
        if saved is not None and saved.origin.owner != self._origin.owner:
            extra = {"path": str(path), "owner": saved.origin.owner, "node": self._origin.owner}
            log.error("ignored the saved state of another node", extra=extra)
            return None
        return saved

    def _restore_firewall(self, content: bytes) -> bool:
        try:
            rules, parted, filling = zlib.decompress(content).partition(b"\0")
            if parted:
                writer.put(writer.WholeTable(rules.decode(), transaction.Batch(filling)))
            else:
                nftables.apply(rules.decode())  # saved by a cnf that had nft write the elements too
        except (errors.VipError, zlib.error, UnicodeError) as err:
            # Saved by another version of cnf or kernel, or too large for nft's memory.
            log.warning("could not restore the firewall", extra={"error": str(err)})
            return False
        return True

    def _restore_connections(self) -> int:
        saved = self._read(self._flows)
        if saved is None or saved.origin.boot != self._origin.boot:
            return 0
        try:
            return flows.restore(saved.content, age_s=saved.age_s)
        except errors.VipError as err:
            log.error("could not restore connections", extra={"error": str(err)})
            return 0
