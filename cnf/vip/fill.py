"""Fills a table's maps and sets with services' elements, without the services that the kernel refuses.

All elements are one transaction. Only when the kernel refuses it are they framed again, with no two services in one
message: the numbers of the refused messages then identify the services. Invariant: nothing is in force, or all of
``TableFill.shares`` is.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from cnf.netlink import wire
from cnf.vip import elements, errors, firewall, refusals, transaction
from cnf.vip import table as vip_table
from cnf.vip.table import Shares, VipTable

_NOT_AS_HELD = frozenset({errno.EEXIST, errno.ENOENT, errno.EBUSY})
"""Somebody else changed the table: no service is at fault, and the whole table has to be written."""

_Framed = tuple[elements.Subject | None, wire.Message]
"""A message with its subject, None where it has no service's or an unknown one."""


class TableFill:
    """Services on their way into one table.

    Attributes:
        shares: The wanted shares, and after ``write`` those in force.
        empty: Whether there is nothing to write.
    """

    def __init__(
        self,
        shares: Shares,
        *,
        versions: Collection[int],
        over: Shares | None = None,
        changed: tuple[VipTable, VipTable] | None = None,
        former: Shares,
        flush: bool = True,
        table: str = firewall.NAME,
        last: Sequence[wire.Message] = (),
    ) -> None:
        """Frame the elements, which takes a while with many services.

        Args:
            shares: What the maps must hold.
            versions: Address families that have maps.
            over: What the maps hold; None when that isn't known.
            changed: The difference of these two (``table.difference``); None when ``over`` is.
            former: The shares that refused services stay at.
            flush: Whether maps of unknown content may hold anything.
            table: Name of the table.
            last: The messages that end the transaction.
        """
        self.shares, self._versions, self._over, self._former = shares, versions, over, former
        self._table, self._last = table, [(None, message) for message in last]
        self._first: list[_Framed] = []
        if over is None and flush:
            self._first = [(None, message) for message in elements.frame_flush(versions, table=table)]
        framed = list(self._frame(self._changes(changed)))
        self.empty = not framed
        self.batch = transaction.encode(_messages(framed)) if framed else transaction.Batch(b"")

    def write(self, send: Callable[[transaction.Batch], None]) -> refusals.RefusedServices:
        """Put in force what the kernel accepts; return what it refuses.

        Raises:
            VipError: nothing is in force: the kernel refused a message that is no service's, or all without a reason.
        """
        refused: dict[str, refusals.RefusalReason] = {}
        if self.empty:
            return refused
        batch = self.batch
        framed: list[_Framed] = []
        while True:
            try:
                send(batch)
            except errors.RulesetRefusedError as err:
                if not err.refusals or any(refusal.error.code in _NOT_AS_HELD for refusal in err.refusals):
                    raise
                if framed:
                    more = refusals.find(self.shares, _refused_of(framed, err))
                    if not more:
                        raise
                    refused.update(more)
                    self.shares = refusals.leave_out(self.shares, more, self._former)
                framed = list(self._frame(self._changes(), apart=True))
                batch = transaction.encode(_messages(framed))
            else:
                return refused

    def _changes(self, changed: tuple[VipTable, VipTable] | None = None) -> elements.ElementChanges:
        if changed is None and self._over is not None:
            changed = vip_table.difference(self._over, self.shares)
        old, new = changed or (vip_table.EMPTY, vip_table.combine(self.shares))
        return elements.difference(old, new, versions=self._versions)

    def _frame(self, changes: elements.ElementChanges, *, apart: bool = False) -> Iterator[_Framed]:
        yield from self._first
        if apart:
            yield from elements.frame_by_subject(changes, table=self._table)
        else:
            yield from ((None, message) for message in elements.frame(changes, table=self._table))
        yield from self._last


def _messages(framed: Iterable[_Framed]) -> Iterator[wire.Message]:
    return (message for _, message in framed)


def _refused_of(framed: Sequence[_Framed], err: errors.RulesetRefusedError) -> list[tuple[elements.Subject, str]]:
    """Return the refused subjects of a batch of ``framed``; raise ``err`` when a refused message has none."""
    refused = []
    for sequence, reason in err.refusals:
        # The messages that begin and end a batch have numbers too.
        subject = framed[sequence - 1][0] if 0 < sequence <= len(framed) else None
        if subject is None:
            raise err
        refused.append((subject, str(reason)))
    return refused
