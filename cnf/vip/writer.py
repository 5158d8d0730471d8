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

from cnf.vip import conntrack, elements, errors, firewall, nftables, refusals, table, transaction
from cnf.vip.filling import Filling
from cnf.vip.firewall import Firewall
from cnf.vip.table import Frontend, Shares, Target, VipTable
from fleetboard.model.addresses import Network

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Whole:
    """All that a table holds, for a namespace that has none.

    Attributes:
        rules: Transaction of nft.
        elements: Transaction that fills the maps, and only then lets anything be forwarded.
    """

    rules: str
    elements: transaction.Batch


@dataclasses.dataclass(frozen=True, slots=True)
class _Held:
    wall: Firewall
    shares: Shares


_OPENING = elements.deletion(nftables.CLOSED_TABLE)


class VipPlane:
    """The firewall and the virtual addresses of one network namespace: that of the threads which call it.

    Calls may come from any thread of that namespace; one at a time goes to the kernel.
    """

    def __init__(
        self,
        *,
        apply: Callable[[str], None] = nftables.apply,
        write: Callable[[transaction.Batch], None] = transaction.apply,
        evict: Callable[[Mapping[Frontend, frozenset[Target]], Sequence[Network]], int] = conntrack.evict,
        serving: Callable[[], str | None] = nftables.serving,
    ) -> None:
        self._apply = apply
        self._write_elements = write
        self._evict, self._serving = evict, serving
        self._lock = threading.Lock()
        self._wall: Firewall | None = None
        # What was taken last, or came before the first firewall; what is refused never gets here.
        self._shares: Shares | None = None
        self._held: _Held | None = None
        # What was wanted of the spare table that serves since we woke it, and what is in it.
        self._spare: tuple[_Held, ...] = ()
        self._freed = False
        self.refused = refusals.Refusals()
        """Services that the kernel refuses, and that therefore are not as was wanted."""
        self.replacements = 0
        """How often all elements were written."""
        self.version = 0
        """Counts what was put in force."""

    def set_base(self, wall: Firewall) -> None:
        """Put ``wall`` in force, with the shares that were taken last: one that is refused doesn't hold it up.

        At a start, the table that a predecessor left stays as it is until the first ``sync``: its virtual addresses
        work on while ours aren't known yet.

        Raises:
            VipError: the kernel doesn't hold ``wall``; call again.
        """
        with self._lock:
            self._wall = wall
            if self._shares is None and isinstance(wall, firewall.NodeFirewall) and self._serving() is not None:
                return
            tried = self._shares
            self.refused.note(tried or {}, self._write(tried))

    def sync(self, shares: Shares) -> None:
        """Put ``shares`` in force, writing only what changed; before the first ``set_base``, remember them for it.

        A share that is the same object as last time is taken for unchanged. One that the kernel refuses is in
        ``refused`` from then on, and isn't tried before its pause is over; the others are in force.

        Raises:
            VipError: the kernel refused the changes and all elements as well, and those of before are in force; or a
                table that has them serves, but not yet in its place; or UDP flows couldn't be freed; call again.
        """
        with self._lock:
            if self._wall is None:
                self._shares = shares
            else:
                tried = self.refused.hold_back(shares, self._shares or {})
                self.refused.settle(shares, tried, self._write(tried))

    def render(self) -> Whole | None:
        """Render what is in force for an empty namespace; None while that isn't known."""
        held = self._held
        if held is None:
            return None
        filling = _filling(held, former={}, flush=False)
        return Whole(nftables.render_base(held.wall), filling.batch)

    def _write(self, shares: Shares | None) -> refusals.Found:
        """Put what the kernel takes of ``shares`` in force, and return what it doesn't."""
        assert self._wall is not None
        wanted = _Held(self._wall, shares or {})
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
            self._evict(conntrack.udp_targets(table.combine(in_force)), wanted.wall.vips)
        self._freed = True
        return found

    def _change(self, held: _Held, wanted: _Held, changed: tuple[VipTable, VipTable]) -> refusals.Found:
        same_rules = held.wall == wanted.wall
        filling = Filling(
            wanted.shares,
            versions=_versions(wanted.wall),
            over=held.shares,
            changed=changed,
            former=held.shares,
            last=() if same_rules else [_OPENING],
        )
        self._held = None
        found: refusals.Found = {}
        try:
            if not same_rules:
                self._apply(nftables.render_rules(wanted.wall))
            if not filling.empty:
                found = filling.write(self._write_elements)
                self.version += 1
        except errors.VipError as err:
            # Somebody else changed the table, or a write of ours was cut short.
            _log.warning("changes refused, replacing the whole table", extra={"reason": str(err)})
            return self._replace(wanted)
        self._held = _Held(wanted.wall, filling.shares)
        return found

    def _replace(self, wanted: _Held) -> refusals.Found:
        self._held = None
        filling = _filling(wanted, former=self._shares or {})  # now: new connections wait between rules and elements
        there = self._serving()
        if there != nftables.SPARE_TABLE:
            self._spare = ()
        anew = there == nftables.SPARE_TABLE or not self._replace_rules(wanted.wall)
        if anew and there is not None:
            try:
                return self._exchange(wanted, there)
            except errors.RulesetRefusedError as err:
                if wanted in self._spare:
                    raise  # it serves all that is wanted, and the next call goes on from there
                _log.warning("no table can be made beside the one that serves", extra={"reason": str(err)})
        if anew:
            self._apply(nftables.render_base(wanted.wall))
        try:
            found = filling.write(self._write_elements)
        except errors.VipError:
            self._reopen(wanted.wall, self._shares if anew else None)
            raise
        self._hold(_Held(wanted.wall, filling.shares))
        return found

    def _replace_rules(self, wall: Firewall) -> bool:
        """Say whether there is a table that takes the rules, and not none, or another version's."""
        try:
            self._apply(nftables.render_rules(wall))
        except errors.RulesetRefusedError:
            return False
        return True

    def _exchange(self, wanted: _Held, there: str) -> refusals.Found:
        """Make the table anew while ``there`` serves; packets meet one that has all its elements, or both for a moment.

        A table can't be renamed: in the place of the one that serves a spare one does meanwhile.

        Raises:
            RulesetRefusedError: no table can be made beside the one that serves.
            NftUnavailableError: one of the two serves, and the next call learns which.
        """
        found: refusals.Found = {}
        whole, former = wanted, self._shares or {}
        steps = [(firewall.NAME, nftables.SPARE_TABLE)]
        if there == firewall.NAME:
            steps.insert(0, (nftables.SPARE_TABLE, firewall.NAME))
        for name, other in steps:
            self._apply(nftables.render_asleep(wanted.wall, name))
            filling = Filling(
                wanted.shares,
                versions=_versions(wanted.wall),
                former=former,
                flush=False,
                table=name,
            )
            found = {**found, **filling.write(self._write_elements)}
            wanted = _Held(wanted.wall, filling.shares)
            # By itself: a chain is met as soon as it is woken, and elements are only once the transaction is through.
            self._write_elements(transaction.encode([elements.waking(name), elements.deletion(other)]))
            if name == nftables.SPARE_TABLE:
                self._spare = (whole, wanted)
                if self._shares is not None:
                    self._shares = wanted.shares  # or ``set_base`` would go back to the former ones
        self._hold(wanted)
        return found

    def _hold(self, held: _Held) -> None:
        self._held, self._spare = held, ()
        self.replacements += 1
        self.version += 1

    def _reopen(self, wall: Firewall, former: Shares | None) -> None:
        """After elements were refused, forward by those of ``former``, else by what the maps hold: never nothing."""
        batches = [] if former is None else [_filling(_Held(wall, former), former={}).batch]
        for batch in [*batches, transaction.encode([_OPENING])]:
            try:
                self._write_elements(batch)
            except errors.VipError as err:
                _log.warning("the forwarding isn't open again", extra={"reason": str(err)})
            else:
                return


def put(whole: Whole) -> None:
    """Put a whole table in force in the calling thread's namespace.

    Raises:
        VipError: it isn't, and as long as another hasn't been put nothing may be forwarded.
    """
    nftables.apply(whole.rules)
    transaction.apply(whole.elements)


def _filling(held: _Held, *, former: Shares, flush: bool = True) -> Filling:
    """Frame all elements, in place of those there may be, and then the opening of the table."""
    return Filling(held.shares, versions=_versions(held.wall), former=former, flush=flush, last=[_OPENING])


def _versions(wall: Firewall) -> list[int]:
    """Return the address families that there are maps for."""
    return firewall.versions(wall) if isinstance(wall, firewall.NodeFirewall) else []
