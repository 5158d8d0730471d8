"""Leader election over one coordination.k8s.io/v1 Lease.

Invariant: a leader stops leading, by its own monotonic clock, before another candidate may start.

A term lasts ``deadline`` from before the request that renewed it. A rival takes over only after it has seen the same
record unchanged for ``duration``, which is longer. The wall-clock times inside the Lease are for people and are never
compared.

Every new term has a higher epoch, the Lease's ``leaseTransitions``. Identities must differ between processes that run
at once. A process that restarts under its predecessor's identity takes the Lease over at once, with a new epoch; a
predecessor that still runs learns from the epoch that its term is over.
"""

from __future__ import annotations

import datetime
import logging
import math
import random
import threading
import time
from collections.abc import Callable

import msgspec

from fleetboard.kube import errors
from fleetboard.kube.client import Client
from fleetboard.model import core, meta, resource, times

log = logging.getLogger(__name__)

HIGHEST_EPOCH = 2**31 - 1
"""``leaseTransitions`` is an int32."""


class Candidacy:
    """Decides whether this candidate may hold the Lease and whether it leads: all rules, no I/O.

    ``now`` is always the caller's monotonic clock.
    """

    def __init__(self, identity: str, *, duration_s: float, deadline_s: float) -> None:
        self._identity, self._duration_s, self._deadline_s = identity, duration_s, deadline_s
        self._seen: tuple[object, float] = (None, float("-inf"))  # the record last read, and when it last changed
        self._looked = float("-inf")  # when a record was last read
        self._term = -1  # epoch of this candidate's last term
        self._claimed = -1  # epoch of its last write or attempt
        self._floor = -1  # epoch that its next one must exceed
        self._renewed = float("-inf")
        self.holder = ""
        self.epoch = 0

    def leading(self, now: float) -> bool:
        """Return whether this candidate's term still lasts."""
        return now - self._renewed < self._deadline_s

    def remaining(self, now: float) -> float:
        """Return how many seconds are left of its term, 0 when it is over."""
        return max(0.0, self._renewed + self._deadline_s - now)

    def next_record(self, lease: core.Lease | None, now: float, *, wall: datetime.datetime) -> core.LeaseSpec | None:
        """Return the record to write, given the record just read; None leaves the Lease alone."""
        spec = lease.spec if lease is not None else core.LeaseSpec()
        led = self.leading(now)
        # Never lower, even when the Lease was deleted: what fences by epoch would refuse this leader forever.
        self.holder, self.epoch = spec.holder_identity, max(self.epoch, spec.lease_transitions)
        record_id = None if lease is None else (spec.holder_identity, spec.renew_time, spec.lease_transitions)
        # Two reads of a missing Lease are indistinguishable: between them there may have been another term.
        blind = record_id is None and now - self._looked >= self._deadline_s
        self._looked = now
        if record_id != self._seen[0] or blind:
            self._seen = (record_id, now)
        stamp = times.render_micro(wall)
        if self._ours(spec):
            term = spec.lease_transitions
            # +2: a second process with the same identity that starts now would claim +1.
            self._claimed = term if term > self._floor else self._floor + 2
            return msgspec.structs.replace(
                spec,
                renew_time=stamp,
                lease_duration_seconds=math.ceil(self._duration_s),
                lease_transitions=self._claimed,
            )
        self._renewed = float("-inf")  # according to the record another candidate's term began
        # An absent Lease may have been deleted during a term: only that term's leader may go on at once. So there is no
        # leader for one ``duration`` when the Lease is made for the first time.
        free = led or self._waited(now) if lease is None else self._free(spec, now)
        if not free:
            return None
        self._term = self._claimed = max(self.epoch, self._floor) + 1
        return core.LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=math.ceil(self._duration_s),
            acquire_time=stamp,
            renew_time=stamp,
            lease_transitions=self._term,
        )

    def renewed(self, started: float) -> None:
        """Begin or extend this candidate's term: the request that wrote the record began at ``started``."""
        self._renewed, self._term = started, self._claimed
        self.holder, self.epoch = self._identity, self._term

    def outbid(self, epoch: int) -> None:
        """Raise this candidate's epoch above ``epoch`` from its next write on, also within a term."""
        if epoch <= HIGHEST_EPOCH - 2:
            self._floor = max(self._floor, epoch)

    def lost(self) -> None:
        """End its term at once."""
        self._renewed = float("-inf")

    def released(self, lease: core.Lease | None) -> core.LeaseSpec | None:
        """Return the record that lets a successor start at once; None when another candidate holds the Lease."""
        self.lost()
        if lease is None or not self._ours(lease.spec):
            return None
        return msgspec.structs.replace(lease.spec, holder_identity="", lease_duration_seconds=1)

    def _ours(self, spec: core.LeaseSpec) -> bool:
        # By epoch too: a later process with the same identity takes the Lease over.
        # Two epochs: the write that raised it, or its answer, may have been lost.
        return spec.holder_identity == self._identity and spec.lease_transitions in (self._term, self._claimed)

    def _free(self, spec: core.LeaseSpec, now: float) -> bool:
        if not spec.holder_identity:
            return True
        if spec.holder_identity == self._identity and self._term < 0:
            return True  # the predecessor's; see the module's docstring
        # The holder's own duration counts where it is longer: its settings may differ.
        return self._waited(now, spec.lease_duration_seconds)

    def _waited(self, now: float, duration_s: float = 0) -> bool:
        return now - self._seen[1] >= max(duration_s, self._duration_s)


class Elector:
    """Campaigns for a Lease.

    Attributes:
        holder: Holder of the Lease when it was last read, empty for none.
        epoch: Its leaseTransitions at that time; every new term has a higher one.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        duration_s: float = 15,
        deadline_s: float = 10,
        period_s: float = 2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not period_s < deadline_s < duration_s:
            raise ValueError(f"expected period < deadline < duration, got {period_s}, {deadline_s}, {duration_s}")
        self._client, self._namespace, self._name = client, namespace, name
        self._period_s, self._deadline_s, self._clock = period_s, deadline_s, clock
        self._candidacy = Candidacy(identity, duration_s=duration_s, deadline_s=deadline_s)
        self._identity = identity
        # Two tries fit into a term, so that one hung connection doesn't end it.
        self._timeout_s = deadline_s / 3

    @property
    def leading(self) -> bool:
        """Whether this process leads now; turns False by the clock alone when the API can't be reached."""
        return self._candidacy.leading(self._clock())

    @property
    def holder(self) -> str:
        """Identity of the holder last read."""
        return self._candidacy.holder

    @property
    def epoch(self) -> int:
        """LeaseTransitions last read."""
        return self._candidacy.epoch

    def run(self, stop: threading.Event, *, on_start: Callable[[], None], on_stop: Callable[[], None]) -> None:
        """Campaign until ``stop``; call ``on_start`` and ``on_stop`` around each term, in this thread.

        Both must return soon. A thread of its own renews the Lease, so a hung request can't delay ``on_stop`` past the
        end of the term. After ``stop`` the Lease is released once ``on_stop`` has returned.
        """
        finished = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(finished,), name="renew the lease", daemon=True)
        renewer.start()
        led = False
        try:
            while not stop.is_set():
                if not renewer.is_alive():
                    raise RuntimeError("the thread that renews the lease died")
                if self.leading is not led:
                    led = not led
                    log.info(
                        "leading" if led else "no longer leading", extra={"lease": self._name, "epoch": self.epoch}
                    )
                    (on_start if led else on_stop)()
                stop.wait(self._pace())
        finally:
            if led:
                on_stop()
            finished.set()
            renewer.join(self._timeout_s * 4)
            self.release()

    def outbid(self, epoch: int) -> None:
        """Take an epoch above ``epoch``, which the other side of a fence has seen, though the Lease is behind it.

        A Lease counts from a lower number after it was deleted while nobody ran, or restored from a backup.
        """
        self._candidacy.outbid(epoch)

    def tick(self) -> None:
        """Read the Lease and write it if allowed; an error of the API ends this try alone."""
        # Read before the requests: a slow answer must not lengthen the term.
        started = self._clock()
        try:
            lease = self._read()
            spec = self._candidacy.next_record(lease, self._clock(), wall=datetime.datetime.now(datetime.UTC))
            if spec is not None:
                self._write(lease, spec)
                self._candidacy.renewed(started)
        except (errors.ConflictError, errors.AlreadyExistsError):
            log.info("another candidate wrote the lease first", extra={"lease": self._name})
        except errors.KubeError as err:
            log.warning("could not renew the lease, retrying", extra={"lease": self._name, "error": str(err)})

    def release(self) -> None:
        """Release the Lease, so that a successor need not wait until the term is over (best effort)."""
        try:
            lease = self._read() if self._candidacy.holder == self._identity else None
            spec = self._candidacy.released(lease)
            if spec is not None:
                self._write(lease, spec)
        except errors.KubeError as err:
            log.warning("could not release the lease", extra={"lease": self._name, "error": str(err)})

    def _renew(self, finished: threading.Event) -> None:
        while not finished.is_set():
            self.tick()
            finished.wait(self._period_s * random.uniform(0.8, 1.2))

    def _pace(self) -> float:
        """Return how long ``run`` may sleep without missing the end of a term, or noticing a new one late."""
        usual_s = min(0.2, self._period_s / 10)
        remaining_s = self._candidacy.remaining(self._clock())
        return min(usual_s, remaining_s) if remaining_s else usual_s

    def _read(self) -> core.Lease | None:
        return self._client.find(resource.LEASES, self._name, self._namespace, timeout_s=self._timeout_s)

    def _write(self, lease: core.Lease | None, spec: core.LeaseSpec) -> None:
        if lease is None:
            fresh = core.Lease(metadata=meta.ObjectMeta(name=self._name, namespace=self._namespace), spec=spec)
            self._client.create(resource.LEASES, fresh, timeout_s=self._timeout_s)
            return
        changed = msgspec.structs.replace(lease, spec=spec)
        self._client.replace(resource.LEASES, changed, timeout_s=self._timeout_s)
