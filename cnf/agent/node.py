"""What a node does without asking anybody: firewall, connections and attachments as they were, and CNI served.

Loaded and done before the rest of cnf, whose modules alone take longer than everything here. One invariant: this
module, and what it imports, knows neither Kubernetes nor the tunnel.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from cnf.agent import settings
from cnf.attach import server, service, spool
from cnf.attach.settings import CniHooks, CniSettings
from cnf.netlink import namespace
from cnf.vip import writer as vip_plane
from cnf.vip.handover import state
from fleetboard.runtime import process

log = logging.getLogger(__name__)

OnCall = Callable[[str, int, float], None]


class Node:
    """The part of a cnf that stands first. ``listen`` joins it to the rest."""

    def __init__(self, options: settings.Settings) -> None:
        """Open the namespace; nothing is changed yet."""
        self._options = options
        self._listening = threading.Lock()
        self._unheard: list[tuple[str, int, float]] = []
        self._on_change: Callable[[], None] | None = None
        self._on_call: OnCall | None = None
        self._on_outlook: Callable[[], str] | None = None
        self.vips = vip_plane.VipPlane()
        self.taken_over = state.TakenOver()
        self.cni = service.CniService(
            CniSettings(state_dir=options.state_dir, netns_dir=options.netns_dir, node=options.node),
            node_netns=namespace.NetworkNamespace.current(),
            hooks=CniHooks(on_change=self._changed, on_call=self._called, outlook=self._outlook),
        )
        self._keeping = state.Keeping(
            self.vips,
            owner=f"{options.clusterset}/{options.cluster}/{options.node}",
            state_dir=options.state_dir,
            run_dir=options.run_dir,
        )
        self._server = server.CniServer(options.run_dir / "cni.sock", self.cni.call)
        self._spool = spool.Spool(options.run_dir / "del", self.cni.call)

    def restore(self) -> None:
        """Bring back what the node remembers: firewall, connections, then the pods that may send by them.

        Raises:
            AttachError: the journal can't be read, or another cnf holds it.
            VipError: the kernel takes no firewall.
        """
        # The CNI executable leaves DELs here while we are away; without the folder it takes us for uninstalled.
        (self._options.run_dir / "del").mkdir(parents=True, exist_ok=True, mode=0o700)
        self._options.state_dir.mkdir(parents=True, exist_ok=True)
        self.taken_over = self._keeping.take_over()
        summary = self.cni.restore()
        log.info("attachments restored", extra={"summary": str(summary), "taken_over": str(self.taken_over)})

    def threads(self) -> process.Threads:
        """Return what shall run from now on."""
        return {
            "cni server": self._server.run,
            "spooled deletions": self._spool.run,
            "keep for a successor": self._keeping.run,
        }

    def listen(self, *, on_change: Callable[[], None], on_call: OnCall, outlook: Callable[[], str]) -> None:
        """Tell of changed attachments and of every call, those included that came before.

        ``outlook`` says why a further block isn't to be had, or nothing.
        """
        with self._listening:
            self._on_change, self._on_call, self._on_outlook = on_change, on_call, outlook
            for call in self._unheard:
                on_call(*call)
            self._unheard.clear()

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()

    def _outlook(self) -> str:
        return "" if self._on_outlook is None else self._on_outlook()

    def _called(self, verb: str, code: int, seconds: float) -> None:
        with self._listening:
            if self._on_call is None:
                self._unheard.append((verb, code, seconds))
            else:
                self._on_call(verb, code, seconds)
