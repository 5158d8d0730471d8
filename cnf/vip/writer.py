"""Keeps the kernel's table in step with what is wanted: the thin shell around the plans.

One invariant: ``_held`` is what the kernel holds, or None when that isn't known; then the next step writes all rules
and all elements anew. Packets meet the old rules or the new, and the old elements or the new; where there is no table
yet that forwards, they are dropped until its maps are full. Nothing is taken away on stop, and tracked connections are
in no table: they outlive both a replacement and this process.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from cnf.vip import conntrack, elements, errors, nftables, refusals, table, transaction
from cnf.vip import firewall as vip_firewall
from cnf.vip.fill import TableFill
from cnf.vip.firewall import Firewall, NodeFirewall
from cnf.vip.table import BackendAddress, Frontend, Shares, VipTable
from fleetboard.model.addresses import Network

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class WholeTable:
    """All that a table holds, for a namespace that has none.

    Attributes:
        rules: Transaction of nft.
        elements: Transaction that fills the maps, and only then lets anything be forwarded.
    """

    rules: str
    elements: transaction.Batch


@dataclasses.dataclass(frozen=True, slots=True)
class _TableState:
    firewall: Firewall
    shares: Shares


_OPENING = elements.deletion(nftables.CLOSED_TABLE)


class FirewallWriter:
    """The firewall and the virtual addresses of one network namespace: that of the threads which call it.

    Calls may come from any thread of that namespace; one at a time goes to the kernel.
    """

    def __init__(
        self,
        *,
        apply: Callable[[str], None] = nftables.apply,
        write: Callable[[transaction.Batch], None] = transaction.apply,
        evict: Callable[[Mapping[Frontend, frozenset[BackendAddress]], Sequence[Network]], int] = conntrack.evict,
        serving: Callable[[], str | None] = nftables.serving,
    ) -> None:
        self._apply = apply
        self._write_elements = write
        self._evict, self._serving = evict, serving
        self._lock = threading.Lock()
        self._firewall: Firewall | None = None
        # What was taken last, or came before the first firewall; what is refused never gets here.
        self._shares: Shares | None = None
        self._held: _TableState | None = None
        # What was wanted of the spare table that serves since we woke it, and what is in it.
        self._spare: tuple[_TableState, ...] = ()
        self._freed = False
        self.refused = refusals.Refusals()
        """Services that the kernel refuses, and that therefore are not as was wanted."""
        self.replacements = 0
        """How often all elements were written."""
        self.version = 0
        """Counts what was put in force."""

    def set_base(self, firewall: Firewall) -> None:
        """Put ``firewall`` in force, with the shares that were taken last: one that is refused doesn't hold it up.

        At a start, the table that a predecessor left stays as it is until the first ``sync``: its virtual addresses
        work on while ours aren't known yet.

        Raises:
            VipError: the kernel doesn't hold ``firewall``; call again.
        """
        with self._lock:
            self._firewall = firewall
            if self._shares is None and isinstance(firewall, NodeFirewall) and self._serving() is not None:
                return
            tried = self._shares
            self.refused.record_refused(tried or {}, self._write(tried))

    def sync(self, shares: Shares) -> None:
        """Put ``shares`` in force, writing only what changed; before the first ``set_base``, remember them for it.

        A share that is the same object as last time is taken for unchanged. One that the kernel refuses is in
        ``refused`` from then on, and isn't tried before its pause is over; the others are in force.

        Raises:
            VipError: the kernel refused the changes and all elements as well, and those of before are in force; or a
                table that has them serves, but not yet in its place; or UDP flows couldn't be freed; call again.
        """
        with self._lock:
            if self._firewall is None:
                self._shares = shares
            else:
                tried = self.refused.hold_back(shares, self._shares or {})
                self.refused.record_attempt(shares, tried, self._write(tried))

    def render(self) -> WholeTable | None:
        """Render what is in force for an empty namespace; None while that isn't known."""
        held = self._held
        if held is None:
            return None
        fill = _frame_all(held, former={}, flush=False)
        return WholeTable(nftables.render_base(held.firewall), fill.batch)

    def _write(self, shares: Shares | None) -> refusals.RefusedServices:
        """Put what the kernel takes of ``shares`` in force, and return what it doesn't."""
        assert self._firewall is not None
        wanted = _TableState(self._firewall, shares or {})
        held = self._held
        changed = None if held is None else table.difference(held.shares, wanted.shares)
        found = self._replace(wanted) if held is None or changed is None else self._change(held, wanted, changed)
        assert self._held is not None
        in_force = self._held.shares
        self._shares = None if shares is None else in_force
        if shares is None:
            return found  # a predecessor's flows go on until it is known what answers
        if held is not None and found:
            changed = table.difference(held.shares, in_force)
        freed, self._freed = self._freed, False
        if changed is not None and freed:
            self._evict(conntrack.stale_udp(*changed), ())
        else:
            # A table we didn't write may have had any services and targets; nor is it known what a failed attempt left.
            self._evict(conntrack.udp_targets(table.combine(in_force)), wanted.firewall.vips)
        self._freed = True
        return found

    def _change(
        self, held: _TableState, wanted: _TableState, changed: tuple[VipTable, VipTable]
    ) -> refusals.RefusedServices:
        same_rules = held.firewall == wanted.firewall
        fill = TableFill(
            wanted.shares,
            versions=_versions(wanted.firewall),
            over=held.shares,
            changed=changed,
            former=held.shares,
            last=() if same_rules else [_OPENING],
        )
        self._held = None
        found: refusals.RefusedServices = {}
        try:
            if not same_rules:
                self._apply(nftables.render_rules(wanted.firewall))
            if not fill.empty:
                found = fill.write(self._write_elements)
                self.version += 1
        except errors.VipError as err:
            # Somebody else changed the table, or a write of ours was cut short.
            log.warning("changes refused, replacing the whole table", extra={"reason": str(err)})
            return self._replace(wanted)
        self._held = _TableState(wanted.firewall, fill.shares)
        return found

    def _replace(self, wanted: _TableState) -> refusals.RefusedServices:
        self._held = None
        fill = _frame_all(wanted, former=self._shares or {})  # now: new connections wait between rules and elements
        there = self._serving()
        if there != nftables.SPARE_TABLE:
            self._spare = ()
        anew = there == nftables.SPARE_TABLE or not self._replace_rules(wanted.firewall)
        if anew and there is not None:
            try:
                return self._exchange(wanted, there)
            except errors.RulesetRefusedError as err:
                if wanted in self._spare:
                    raise  # it serves all that is wanted, and the next call goes on from there
                log.warning("no table can be made beside the one that serves", extra={"reason": str(err)})
        if anew:
            self._apply(nftables.render_base(wanted.firewall))
        try:
            found = fill.write(self._write_elements)
        except errors.VipError:
            self._reopen(wanted.firewall, self._shares if anew else None)
            raise
        self._hold(_TableState(wanted.firewall, fill.shares))
        return found

    def _replace_rules(self, firewall: Firewall) -> bool:
        """Say whether there is a table that takes the rules, and not none, or another version's."""
        try:
            self._apply(nftables.render_rules(firewall))
        except errors.RulesetRefusedError:
            return False
        return True

    def _exchange(self, wanted: _TableState, there: str) -> refusals.RefusedServices:
        """Make the table anew while ``there`` serves; packets meet one that has all its elements, or both for a moment.

        A table can't be renamed: in the place of the one that serves a spare one does meanwhile.

        Raises:
            RulesetRefusedError: no table can be made beside the one that serves.
            NftUnavailableError: one of the two serves, and the next call learns which.
        """
        found: refusals.RefusedServices = {}
        whole, former = wanted, self._shares or {}
        steps = [(vip_firewall.NAME, nftables.SPARE_TABLE)]
        if there == vip_firewall.NAME:
            steps.insert(0, (nftables.SPARE_TABLE, vip_firewall.NAME))
        for name, other in steps:
            self._apply(nftables.render_asleep(wanted.firewall, name))
            fill = TableFill(
                wanted.shares,
                versions=_versions(wanted.firewall),
                former=former,
                flush=False,
                table=name,
            )
            found = {**found, **fill.write(self._write_elements)}
            wanted = _TableState(wanted.firewall, fill.shares)
            # By itself: a chain is met as soon as it is woken, and elements are only once the transaction is through.
            self._write_elements(transaction.encode([elements.waking(name), elements.deletion(other)]))
            if name == nftables.SPARE_TABLE:
                self._spare = (whole, wanted)
                if self._shares is not None:
                    self._shares = wanted.shares  # or ``set_base`` would go back to the former ones
        self._hold(wanted)
        return found

    def _hold(self, held: _TableState) -> None:
        self._held, self._spare = held, ()
        self.replacements += 1
        self.version += 1

    def _reopen(self, firewall: Firewall, former: Shares | None) -> None:
        """After elements were refused, forward by those of ``former``, else by what the maps hold: never nothing."""
        batches = [] if former is None else [_frame_all(_TableState(firewall, former), former={}).batch]
        for batch in [*batches, transaction.encode([_OPENING])]:
            try:
                self._write_elements(batch)
            except errors.VipError as err:
                log.warning("the forwarding isn't open again", extra={"reason": str(err)})
            else:
                return


def put(whole: WholeTable) -> None:
    """Put a whole table in force in the calling thread's namespace.

    Raises:
        VipError: it isn't, and as long as another hasn't been put nothing may be forwarded.
    """
    nftables.apply(whole.rules)
    transaction.apply(whole.elements)


def _frame_all(held: _TableState, *, former: Shares, flush: bool = True) -> TableFill:
    """Frame all elements, in place of those there may be, and then the opening of the table."""
    return TableFill(held.shares, versions=_versions(held.firewall), former=former, flush=flush, last=[_OPENING])


def _versions(firewall: Firewall) -> list[int]:
    """Return the address families that there are maps for."""
    return vip_firewall.versions(firewall) if isinstance(firewall, NodeFirewall) else []
