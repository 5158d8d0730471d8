"""Makes ledger and kernel agree: after a restart, and every half minute.

Theory of operation. The kernel is the truth, and the API is never asked. A veth pair dies with either of its
namespaces, so what is left in the kernel shows what happened meanwhile. ``sweep`` compares each record of the ledger
with the interfaces in cnf's namespace:

    record      pair        pod's namespace     then
    finished    exists      (lives)             adopted; at a start cnf's end is wired again
    finished    untagged    (lives)             deleted and recreated: an earlier process ended within this
    finished    missing     lives               recreated, as after cnf's own namespace was replaced
    finished    missing     gone                suspected; freed by a later sweep that finds it so again
    unfinished  any         any                 freed: the caller of its ADD got no answer
    none        exists      (lives)             at a start recovered from its tag; else deleted by a later sweep

A namespace is opened by its path and believed by its cookie (``pods``). Cookies are unique within one boot only, so
``free_former_boots`` first frees all records of other boots; their namespaces are gone.

Nothing is freed on one look, except where there is a witness: the runtime, in ``collect_unlisted``, or the boot id. The
list of interfaces may be torn by concurrent changes, so a pair that it lacks is looked up by name before it counts as
missing.

Calls go on during a sweep. A container whose lock a call holds is left for the next sweep. The order of reading makes
up for the rest: interfaces first and the ledger after, so an interface of a running ADD is never a stray.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import enum
import logging
import threading
import time
from collections.abc import Callable, Mapping

import msgspec

from cnf.attach import errors, identity, records, wiring
from cnf.attach.node_network.network import NodeNetwork
from cnf.attach.node_resources import NodeResources
from cnf.netlink import connection, links
from cnf.netlink import errors as netlink_errors

log = logging.getLogger(__name__)

_WORKERS = 8
_APART_S = 1.0
"""Least time between the two sweeps that find an attachment dead."""


@dataclasses.dataclass(frozen=True, slots=True)
class RestoreSummary:
    """What a sweep found and did."""

    adopted: int = 0
    recreated: int = 0
    freed: int = 0
    suspected: int = 0
    recovered: int = 0
    """Attachments that the journal had lost."""
    failed: int = 0
    damaged: int = 0
    """Lines of the journal that could not be read."""


class _Outcome(enum.Enum):
    ADOPTED = "adopted"
    RECREATED = "recreated"
    FREED = "freed"
    SUSPECTED = "suspected"
    RECOVERED = "recovered"
    FAILED = "failed"
    LEFT = "left"


class Recovery:
    """Sweeps, one at a time. Thread-safe."""

    def __init__(self, resources: NodeResources, *, boot: str, clock: Callable[[], float] = time.monotonic) -> None:
        """A container whose lock a call holds is left alone."""
        self._ledger = resources.ledger
        self._plumber = resources.plumber
        self._pods = resources.pods
        self._locks = resources.locks
        self._boot = boot
        self._clock = clock
        self._turn = threading.Lock()
        self._suspects: dict[records.Key, tuple[int, float]] = {}
        self._strays: dict[str, float] = {}

    def free_former_boots(self) -> int:
        """Free what was attached before the machine booted; its namespaces are gone."""
        dead = [r for r in (*self._ledger.attached(), *self._ledger.unfinished()) if r.boot != self._boot]
        for record in dead:
            self._ledger.release(record.key)
        return len(dead)

    def sweep(self, network: NodeNetwork | None, *, at_start: bool = False) -> RestoreSummary:
        """Look at everything once. Without ``network`` nothing is recreated, and nothing living is freed."""
        with self._turn:
            # In this order: an interface that an ADD creates meanwhile is in the ledger by the time that is read.
            pairs = self._plumber.list_pairs()
            attached, unfinished = self._ledger.attached(), self._ledger.unfinished()
            strays = self._find_strays(pairs)
            self._forget_suspects(attached)
            outcomes = [self._end_unfinished(record) for record in unfinished]
            with concurrent.futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="sweep") as workers:
                outcomes += workers.map(lambda r: self._reconcile(r, pairs, network, at_start=at_start), attached)
            outcomes += self._reconcile_strays(strays, at_start=at_start)
        return _count(outcomes)

    def collect_unlisted(self, unlisted: Callable[[records.Record], bool]) -> int:
        """Free dead attachments that the runtime doesn't list. It is the witness, so one look is enough."""
        freed = 0
        with self._turn:
            for record in filter(unlisted, self._ledger.attached()):
                with self._locks.hold(record.container_id, timeout_s=0) as held:
                    if not held or self._plumber.find(identity.veth_name(*record.key)) is not None:
                        continue
                    pod = self._pods.open(record.netns, cookie=record.cookie)
                    if pod is not None:
                        pod.close()
                        continue
                    freed += self._ledger.release(record.key)
        return freed

    def _reconcile(
        self,
        record: records.Record,
        pairs: Mapping[str, links.Link],
        network: NodeNetwork | None,
        *,
        at_start: bool,
    ) -> _Outcome:
        name = identity.veth_name(*record.key)
        link = pairs.get(name)
        if link is not None and not at_start and (network is None or link.mtu <= network.mtu):
            return _Outcome.ADOPTED  # the usual case takes no lock and asks no kernel
        with self._locks.hold(record.container_id, timeout_s=0) as held:
            if not held or self._ledger.find(record.key) != record:
                return _Outcome.LEFT
            try:
                link = self._plumber.find(name)  # the list may lack it, or be outdated
                if link is not None and identity.is_ours(link.alias):
                    return self._adopt(record, link, network)
                if link is not None:
                    # The process before this one ended while it recreated the pair. The tag comes last, so the pod's
                    # end may lack anything.
                    self._plumber.detach(link.name)
                return self._recreate(record, network)
            except (netlink_errors.NetlinkError, errors.AttachError) as err:
                log.error(
                    "could not restore an attachment",
                    extra={"container": record.container_id, "addresses": record.addresses, "error": str(err)},
                )
                return _Outcome.FAILED

    def _adopt(self, record: records.Record, link: links.Link, network: NodeNetwork | None) -> _Outcome:
        if network is None:
            return _Outcome.ADOPTED
        ends = wiring.plan_ends(record, network).at(link.index, record.index)
        if link.mtu <= network.mtu:
            self._plumber.rewire(ends)
            return _Outcome.ADOPTED
        self._retune(record, ends)
        return _Outcome.ADOPTED

    def retune(self, network: NodeNetwork) -> None:
        """Set MTU and routes to the fleet on every pair that exists."""
        for record in self._ledger.attached():
            try:
                link = self._plumber.find(identity.veth_name(*record.key))
                if link is None:
                    continue
                self._retune(record, wiring.plan_ends(record, network).at(link.index, record.index))
            except netlink_errors.NetlinkError as err:
                log.error(
                    "could not change a pod's interface",
                    extra={"pod": f"{record.pod_namespace}/{record.pod_name}", "error": str(err)},
                )

    def _retune(self, record: records.Record, ends: wiring.Ends) -> None:
        pod = self._pods.open(record.netns, cookie=record.cookie)
        if pod is None:
            return  # a lower MTU at the near end alone would drop the pod's packets
        with pod, pod.connect() as inside:
            self._plumber.retune(ends, inside=inside)

    def _recreate(self, record: records.Record, network: NodeNetwork | None) -> _Outcome:
        pod = self._pods.open(record.netns, cookie=record.cookie)
        if pod is None:
            return self._suspect(record)
        with pod:
            self._suspects.pop(record.key, None)
            if network is None:
                return _Outcome.LEFT
            with pod.connect() as inside:
                self._clear_stale(record, inside)
                ends = self._plumber.attach(wiring.plan_ends(record, network), pod=pod, inside=inside)
        if ends.far.index != record.index:
            self._ledger.commit(record.key, index=ends.far.index)
        return _Outcome.RECREATED

    def _clear_stale(self, record: records.Record, inside: connection.Connection) -> None:
        """Delete a pod's end whose near end is in cnf's former namespace, which has not ended yet."""
        stale = links.find(inside, record.interface)
        if stale is not None and identity.is_ours(stale.alias):
            inside.send([links.delete(record.interface)])

    def _suspect(self, record: records.Record) -> _Outcome:
        now = self._clock()
        cookie, since = self._suspects.setdefault(record.key, (record.cookie, now))
        if cookie != record.cookie or now - since < _APART_S:
            return _Outcome.SUSPECTED
        del self._suspects[record.key]
        self._ledger.release(record.key)
        return _Outcome.FREED

    def _forget_suspects(self, attached: list[records.Record]) -> None:
        living = {record.key: record.cookie for record in attached}
        self._suspects = {key: seen for key, seen in self._suspects.items() if living.get(key) == seen[0]}

    def _end_unfinished(self, record: records.Record) -> _Outcome:
        """Roll back an ADD that will never end; its caller got no answer."""
        with self._locks.hold(record.container_id, timeout_s=0) as held:
            if not held or record not in self._ledger.unfinished():
                return _Outcome.LEFT
            try:
                self._plumber.detach(identity.veth_name(*record.key))
            except netlink_errors.NetlinkError as err:
                extra = {"container": record.container_id, "error": str(err)}
                log.error("could not undo an unfinished ADD, retrying", extra=extra)
                return _Outcome.FAILED
            self._ledger.release(record.key, quarantine=False)
            return _Outcome.FREED

    def _find_strays(self, pairs: Mapping[str, links.Link]) -> dict[str, links.Link]:
        """Return the pairs without a record. Call it before records are freed, or their pairs count as strays."""
        named = {identity.veth_name(*r.key) for r in (*self._ledger.attached(), *self._ledger.unfinished())}
        return {name: link for name, link in pairs.items() if name not in named}

    def _reconcile_strays(self, strays: Mapping[str, links.Link], *, at_start: bool) -> list[_Outcome]:
        """Write pairs without a record into the ledger, which lost them, or delete them."""
        self._strays = {name: since for name, since in self._strays.items() if name in strays}
        outcomes: list[_Outcome] = []
        for name, link in strays.items():
            record = self._read_stray(link) if at_start else None
            if record is not None:
                self._ledger.adopt(record)
                outcomes.append(_Outcome.RECOVERED)
            elif self._clock() - self._strays.setdefault(name, self._clock()) >= _APART_S:
                del self._strays[name]
                self._plumber.detach(name)
                outcomes.append(_Outcome.FREED)
        return outcomes

    def _read_stray(self, link: links.Link) -> records.Record | None:
        parsed = identity.parse_alias(link.alias)
        if parsed is None:
            return None
        container_id, interface, addresses, uid = parsed
        if any(self._ledger.holds(address) for address in addresses):
            return None
        record = records.Record(
            container_id=container_id,
            interface=interface,
            addresses=[str(address) for address in addresses],
            mac=identity.pod_mac(container_id, interface),
            cookie=0,
            boot=self._boot,
            pod_uid=uid,
            index=link.peer_index,
        )
        netns, cookie = self._pods.search(record)
        return msgspec.structs.replace(record, netns=netns, cookie=cookie)


def _count(outcomes: list[_Outcome]) -> RestoreSummary:
    fields = {field.name for field in dataclasses.fields(RestoreSummary)}
    return RestoreSummary(**{o.value: outcomes.count(o) for o in _Outcome if o.value in fields})
