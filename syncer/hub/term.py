"""The term of leadership: its queues live as long as this replica leads.

Invariant: a key that arrives while this replica does not lead is dropped. A term begins with every key there is.
"""

from __future__ import annotations

import enum
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from fleetboard.kube.controller import Controller

log = logging.getLogger(__name__)


class HubQueue(enum.Enum):
    """The work queues of a term, by the names that their metrics have."""

    MEMBERS = "members"
    COPIES = "slices"
    SERVICES = "services"
    CLAIMS = "claims"


class LeadershipTerm:
    """The controllers of one term of leadership."""

    def __init__(
        self, controllers: Mapping[HubQueue, Controller[str]], *, on_death: Callable[[BaseException], None]
    ) -> None:
        self._controllers = controllers
        self._on_death = on_death
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin to work."""
        for queue, controller in self._controllers.items():
            threading.Thread(target=self._run, args=(queue, controller), name=queue.value, daemon=True).start()

    def end(self) -> None:
        """Take no further key; work under way ends by itself."""
        self._stop.set()

    def enqueue(self, queue: HubQueue, key: str) -> None:
        """Give a key to one of the controllers."""
        self._controllers[queue].enqueue(key)

    def _run(self, queue: HubQueue, controller: Controller[str]) -> None:
        try:
            controller.run(self._stop)
        except Exception as err:
            log.exception("a controller ended unexpectedly", extra={"controller": queue.value})
            self._on_death(err)


class CurrentTerm:
    """The current term, if this replica leads.

    Attributes:
        fault: Why a controller died; None while all live.
    """

    def __init__(self) -> None:
        self.fault: BaseException | None = None
        self._term: LeadershipTerm | None = None

    def begin(
        self,
        controllers: Mapping[HubQueue, Controller[str]],
        list_keys: Mapping[HubQueue, Callable[[], Iterable[str]]],
    ) -> None:
        """Begin a term with every key that ``list_keys`` return."""
        term = LeadershipTerm(controllers, on_death=self._fail)
        # Before the keys are listed: a change that comes between would be lost otherwise.
        self._term = term
        for queue, list_queue in list_keys.items():
            for key in list_queue():
                term.enqueue(queue, key)
        term.start()

    def end(self) -> None:
        """End the term, if there is one."""
        term, self._term = self._term, None
        if term is not None:
            term.end()

    def enqueue(self, queue: HubQueue, key: str) -> None:
        """Give a key to the queue while this replica leads."""
        term = self._term
        if term is not None:
            term.enqueue(queue, key)

    def to(self, queue: HubQueue) -> Callable[[str], None]:
        """Return ``enqueue`` for one queue."""
        return functools.partial(self.enqueue, queue)

    def _fail(self, err: BaseException) -> None:
        self.fault = err
