"""Writes firewall and virtual addresses to the kernel's nftables: the thin shell around the plans.

Theory of operation. What is wanted is a firewall (rules) and shares (elements of maps and sets). Three ways lead there:

1. *Change.* The kernel's content is known: only the differences are written, rules by nft, elements by netlink.
2. *Refill.* The content isn't known, but there is a table of our layout: its rules are replaced, all elements written.
3. *Exchange.* Another version's table serves, or a spare one: a new table is filled, dormant, beside it. The
   transaction that wakes it deletes the other. A table can't be renamed, so a spare one may serve in between.

Where no table forwards yet, ``CLOSED_TABLE`` drops everything until the maps are full. Nothing is removed on stop.
Tracked connections are in no table: they outlive both a replacement and this process.

Invariant: ``_held`` is what the kernel holds, or None when that isn't known; then the next step writes all rules and
all elements again. A packet meets the old rules or the new, and the old elements or the new.
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
    """A table's content, for a namespace that has no table.

    Attributes:
        rules: Transaction of nft.
        elements: Transaction that fills the maps, and only then opens forwarding.
    """

    rules: str
    elements: transaction.Batch


@dataclasses.dataclass(frozen=True, slots=True)
class _TableState:
    """What a table holds, or must hold."""

    firewall: Firewall
    shares: Shares


_OPENING = elements.frame_table_deletion(nftables.CLOSED_TABLE)


class FirewallWriter:
    """Firewall and virtual addresses of one network namespace: that of the threads that call it.

    Thread-safe within that namespace: one call at a time goes to the kernel.
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
        # The shares in force, or those that came before the first firewall; refused shares never get here.
        self._shares: Shares | None = None
        self._held: _TableState | None = None
        # Once a spare table was woken: what was wanted of it, and what it holds.
        self._spare: tuple[_TableState, ...] = ()
        self._freed = False
        self.refused = refusals.Refusals()
        """Services that the kernel refuses."""
        self.replacements = 0
        """How often all elements were written."""
        self.version = 0
        """Number of the last change that was put in force."""

    def set_base(self, firewall: Firewall) -> None:
        """Put ``firewall`` in force with the current shares; a refused share doesn't hold it up.

        At a start, a table that a former process left stays as it is until the first ``sync``: its virtual addresses
        work on until ours are known.

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
        """Put ``shares`` in force, writing only what changed; before the first ``set_base``, keep them for it.

        A share that is the same object as last time counts as unchanged. A share that the kernel refuses is in
        ``refused`` from then on, and isn't tried again before its pause is over; the others are in force.

        Raises:
            VipError: call again. The kernel refused the changes and all elements too, and the former ones are in
                force; or a spare table serves them, but not yet the table itself; or UDP flows couldn't be freed.
        """
        with self._lock:
            if self._firewall is None:
                self._shares = shares
            else:
                tried = self.refused.hold_back(shares, self._shares or {})
                self.refused.record_attempt(shares, tried, self._write(tried))

    def render(self) -> WholeTable | None:
        """Render what is in force, for an empty namespace; None while that isn't known."""
        held = self._held
        if held is None:
            return None
        fill = _frame_all(held, former={}, flush=False)
        return WholeTable(nftables.render_base(held.firewall), fill.batch)

    def _write(self, shares: Shares | None) -> refusals.RefusedServices:
        """Put in force what the kernel accepts of ``shares``; return what it refuses."""
        assert self._firewall is not None
        wanted = _TableState(self._firewall, shares or {})
        held = self._held
        changed = None if held is None else table.difference(held.shares, wanted.shares)
        refused = self._replace(wanted) if held is None or changed is None else self._change(held, wanted, changed)
        assert self._held is not None
        in_force = self._held.shares
        self._shares = None if shares is None else in_force
        if shares is None:
            return refused  # a former process's flows go on until it is known what answers
        if held is not None and refused:
            changed = table.difference(held.shares, in_force)
        freed, self._freed = self._freed, False
        if changed is not None and freed:
            self._evict(conntrack.stale_udp(*changed), ())
        else:
            # Somebody else's table may have had any services and targets, and a failed attempt may have left any.
            self._evict(conntrack.udp_targets(table.combine(in_force)), wanted.firewall.vips)
        self._freed = True
        return refused

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
        refused: refusals.RefusedServices = {}
        try:
            if not same_rules:
                self._apply(nftables.render_rules(wanted.firewall))
            if not fill.empty:
                refused = fill.write(self._write_elements)
                self.version += 1
        except errors.VipError as err:
            # Somebody else changed the table, or a write was cut short.
            log.warning("the kernel refused the changes, replacing the whole table", extra={"error": str(err)})
            return self._replace(wanted)
        self._held = _TableState(wanted.firewall, fill.shares)
        return refused

    def _replace(self, wanted: _TableState) -> refusals.RefusedServices:
        self._held = None
        fill = _frame_all(wanted, former=self._shares or {})  # before the rules: connections wait after
        serving = self._serving()
        if serving != nftables.SPARE_TABLE:
            self._spare = ()
        rebuild = serving == nftables.SPARE_TABLE or not self._replace_rules(wanted.firewall)
        if rebuild and serving is not None:
            try:
                return self._exchange(wanted, serving)
            except errors.RulesetRefusedError as err:
                if wanted in self._spare:
                    raise  # the spare table serves all that is wanted, and the next call goes on from there
                log.warning("could not create a second table, replacing the one that serves", extra={"error": str(err)})
        if rebuild:
            self._apply(nftables.render_base(wanted.firewall))
        try:
            refused = fill.write(self._write_elements)
        except errors.VipError:
            self._reopen(wanted.firewall, self._shares if rebuild else None)
            raise
        self._hold(_TableState(wanted.firewall, fill.shares))
        return refused

    def _replace_rules(self, firewall: Firewall) -> bool:
        """Replace the rules; return whether there was a table of our layout to take them."""
        try:
            self._apply(nftables.render_rules(firewall))
        except errors.RulesetRefusedError:
            return False
        return True

    def _exchange(self, wanted: _TableState, serving: str) -> refusals.RefusedServices:
        """Create the table again while ``serving`` serves: packets meet a full table, or for a moment both.

        A table can't be renamed: while the table itself is created, a spare one serves.

        Raises:
            RulesetRefusedError: no second table can be created beside the one that serves.
            NftUnavailableError: one of the two serves, and the next call learns which.
        """
        refused: refusals.RefusedServices = {}
        whole, former = wanted, self._shares or {}
        steps = [(vip_firewall.NAME, nftables.SPARE_TABLE)]
        if serving == vip_firewall.NAME:
            steps.insert(0, (nftables.SPARE_TABLE, vip_firewall.NAME))
        for name, other in steps:
            self._apply(nftables.render_dormant(wanted.firewall, name))
            fill = TableFill(
                wanted.shares,
                versions=_versions(wanted.firewall),
                former=former,
                flush=False,
                table=name,
            )
            refused = {**refused, **fill.write(self._write_elements)}
            wanted = _TableState(wanted.firewall, fill.shares)
            # In a transaction of its own: a chain is met as soon as it is woken, elements only after the transaction.
            self._write_elements(transaction.encode([elements.frame_wake(name), elements.frame_table_deletion(other)]))
            if name == nftables.SPARE_TABLE:
                self._spare = (whole, wanted)
                if self._shares is not None:
                    self._shares = wanted.shares  # or ``set_base`` would return to the former ones
        self._hold(wanted)
        return refused

    def _hold(self, held: _TableState) -> None:
        self._held, self._spare = held, ()
        self.replacements += 1
        self.version += 1

    def _reopen(self, firewall: Firewall, former: Shares | None) -> None:
        """Forward by the elements of ``former``, or by what the maps hold: a refusal must not stop everything."""
        batches = [] if former is None else [_frame_all(_TableState(firewall, former), former={}).batch]
        for batch in [*batches, transaction.encode([_OPENING])]:
            try:
                self._write_elements(batch)
            except errors.VipError as err:
                log.warning("could not reopen forwarding", extra={"error": str(err)})
            else:
                return


def put(whole: WholeTable) -> None:
    """Put a whole table in force in the calling thread's namespace.

    Raises:
        VipError: it isn't in force, and nothing may be forwarded before another table is.
    """
    nftables.apply(whole.rules)
    transaction.apply(whole.elements)


def _frame_all(held: _TableState, *, former: Shares, flush: bool = True) -> TableFill:
    """Frame all elements, in place of any in the maps, and then the opening of the table."""
    return TableFill(held.shares, versions=_versions(held.firewall), former=former, flush=flush, last=[_OPENING])


def _versions(firewall: Firewall) -> list[int]:
    """Return the address families that have maps."""
    return vip_firewall.versions(firewall) if isinstance(firewall, NodeFirewall) else []
