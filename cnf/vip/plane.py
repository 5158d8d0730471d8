"""Keeps the kernel's table in step with what is wanted: the thin shell around the plans.

One invariant: ``_held`` is what the kernel holds, or None when that isn't known; then the next step replaces the
whole table in one transaction, so that packets meet the old rules or the new, never none. Nothing is taken away on
stop, and tracked connections are in no table: they outlive both a replacement and this process.
"""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence

from cnf.vip import conntrack, errors, firewall, nftables, table
from cnf.vip.firewall import Firewall
from cnf.vip.table import Frontend, Target, VipTable
from fleetboard.model.addresses import Network

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class _Held:
    wall: Firewall
    vips: VipTable


class VipPlane:
    """The firewall and the virtual addresses of one network namespace: that of the threads which call it.

    Calls may come from any thread of that namespace; one at a time goes to the kernel.
    """

    def __init__(
        self,
        *,
        apply: Callable[[str], None] = nftables.apply,
        evict: Callable[[Mapping[Frontend, frozenset[Target]], Sequence[Network]], int] = conntrack.evict,
    ) -> None:
        self._apply = apply
        self._evict = evict
        self._lock = threading.Lock()
        self._wall: Firewall | None = None
        self._vips: VipTable | None = None
        self._held: _Held | None = None
        self._freed = False
        self.replacements = 0
        """How often the whole table was written."""
        self.version = 0
        """Counts what was put in force."""

    def set_base(self, wall: Firewall) -> None:
        """Put ``wall`` in force.

        At a start, the table that a predecessor left stays as it is until the first ``sync``: its virtual addresses
        work on while ours aren't known yet.

        Raises:
            VipError: the kernel doesn't hold ``wall``; call again.
        """
        with self._lock:
            self._wall = wall
            if self._vips is None and isinstance(wall, firewall.NodeFirewall) and table_exists():
                return
            self._write()

    def sync(self, vips: VipTable) -> None:
        """Put ``vips`` in force, writing only what changed; before the first ``set_base``, remember them for it.

        Raises:
            VipError: the kernel refused the changes and the whole table as well, or UDP flows couldn't be freed;
                call again.
        """
        with self._lock:
            self._vips = vips
            if self._wall is not None:
                self._write()

    def render(self) -> str | None:
        """Render what is in force as one transaction for an empty namespace; None while that isn't known."""
        held = self._held
        return None if held is None else _render(held)

    def _write(self) -> None:
        assert self._wall is not None
        wanted = _Held(self._wall, self._vips or table.EMPTY)
        held = self._held
        if held is None or held.wall != wanted.wall:
            self._replace(wanted)
        else:
            self._change(held, wanted)
        if self._vips is None:
            return  # a predecessor's flows go on until it is known what answers
        freed, self._freed = self._freed, False
        if held is not None and freed:
            self._evict(conntrack.stale_udp(held.vips, wanted.vips), ())
        else:
            # A table we didn't write may have had any services and targets; nor is it known what a failed attempt left.
            self._evict(conntrack.udp_targets(wanted.vips), wanted.wall.vips)
        self._freed = True

    def _change(self, held: _Held, wanted: _Held) -> None:
        changes = nftables.render_changes(held.vips, wanted.vips)
        self._held = None
        try:
            if changes:
                self._apply(changes)
                self.version += 1
        except errors.VipError as err:
            # Somebody else changed the table, or a write of ours was cut short.
            _log.warning("changes refused, replacing the whole table", extra={"reason": str(err)})
            self._replace(wanted)
        else:
            self._held = wanted

    def _replace(self, wanted: _Held) -> None:
        self._held = None
        self._apply(_render(wanted))
        self._held = wanted
        self.replacements += 1
        self.version += 1


def _render(held: _Held) -> str:
    text = nftables.render_base(held.wall)
    if isinstance(held.wall, firewall.NodeFirewall):
        text += nftables.render_changes(table.EMPTY, held.vips)
    return text


def table_exists() -> bool:
    """Whether the calling thread's network namespace has a table of ours."""
    command = ("nft", "list", "tables")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=nftables.TIMEOUT_S, check=False)
    except (subprocess.TimeoutExpired, OSError) as err:
        raise errors.NftUnavailableError(f"nft can't list tables: {err}") from err
    return f"table {firewall.TABLE}" in done.stdout.splitlines()
