"""What a node does without asking anybody: firewall, connections and attachments as they were, and CNI served.

Loaded and done before the rest of cnf, whose modules alone take longer than everything here. So neither this module
nor what it imports knows Kubernetes or the tunnel.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from cnf.agent.settings import AgentSettings
from cnf.attach import server, spool
from cnf.attach.service import CniService
from cnf.attach.settings import CniHooks, CniSettings
from cnf.netlink import namespace
from cnf.vip.handover import state
from cnf.vip.writer import FirewallWriter
from fleetboard.runtime import process

log = logging.getLogger(__name__)

OnCall = Callable[[str, int, float], None]


class LocalNode:
    """The part of cnf that starts first; ``listen`` connects it to the rest."""

    def __init__(self, settings: AgentSettings) -> None:
        """Open the namespace; nothing is changed yet."""
        self._settings = settings
        self._listening = threading.Lock()
        self._unreported: list[tuple[str, int, float]] = []
        self._on_change: Callable[[], None] | None = None
        self._on_call: OnCall | None = None
        self._on_why_no_block: Callable[[], str] | None = None
        self.firewall_writer = FirewallWriter()
        self.taken_over = state.TakenOver()
        self.cni = CniService(
            CniSettings(state_dir=settings.state_dir, netns_dir=settings.netns_dir, node=settings.node),
            node_netns=namespace.NetworkNamespace.current(),
            hooks=CniHooks(on_change=self._changed, on_call=self._called, why_no_block=self._why_no_block),
        )
        self._handover = state.Handover(
            self.firewall_writer,
            owner=f"{settings.clusterset}/{settings.cluster}/{settings.node}",
            state_dir=settings.state_dir,
            run_dir=settings.run_dir,
        )
        self._server = server.CniServer(settings.run_dir / "cni.sock", self.cni.calls.call)
        self._spool = spool.Spool(settings.run_dir / "del", self.cni.calls.call)

    def restore(self) -> None:
        """Restore what the node remembers: firewall and connections, and then the pods that send through them.

        Raises:
            AttachError: the journal can't be read, or another cnf holds it.
            VipError: the kernel refuses the firewall.
        """
        # The CNI executable leaves DELs here while cnf is away; without the folder it takes cnf for uninstalled.
        (self._settings.run_dir / "del").mkdir(parents=True, exist_ok=True, mode=0o700)
        self._settings.state_dir.mkdir(parents=True, exist_ok=True)
        self.taken_over = self._handover.take_over()
        summary = self.cni.restore()
        log.info("restored attachments", extra={"summary": str(summary), "taken_over": str(self.taken_over)})

    def threads(self) -> process.Threads:
        """Return the threads to run, by name."""
        return {
            "cni server": self._server.run,
            "spooled deletions": self._spool.run,
            "save for the next cnf": self._handover.run,
        }

    def listen(self, *, on_change: Callable[[], None], on_call: OnCall, why_no_block: Callable[[], str]) -> None:
        """Report changed attachments and every call, also those that came before.

        ``why_no_block`` returns why no further block comes, or nothing.
        """
        with self._listening:
            self._on_change, self._on_call, self._on_why_no_block = on_change, on_call, why_no_block
            for call in self._unreported:
                on_call(*call)
            self._unreported.clear()

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()

    def _why_no_block(self) -> str:
        return "" if self._on_why_no_block is None else self._on_why_no_block()

    def _called(self, verb: str, code: int, seconds: float) -> None:
        with self._listening:
            if self._on_call is None:
                self._unreported.append((verb, code, seconds))
            else:
                self._on_call(verb, code, seconds)
