"""Holds the tunnel back until the firewall is in force: a new pod's namespace forwards anything until then."""

from __future__ import annotations

import time
from collections.abc import Callable

from cnf.controllers.services import ServiceController
from cnf.controllers.tunnel import TunnelController

SOON_S = 0.05
"""When to look again whether the services are in place; a look is one comparison."""
GUARD_S = 3.0
"""How long the first tunnel waits for the services; then the firewall is put in force without them."""


class TunnelGate:
    """Reconciles the tunnel behind the firewall; ``firewall_restored`` when a former process left one."""

    def __init__(
        self,
        *,
        tunnel_controller: TunnelController,
        service_controller: ServiceController,
        firewall_restored: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tunnel_controller, self._service_controller = tunnel_controller, service_controller
        self._firewall_restored, self._clock = firewall_restored, clock
        self._guard_at = 0.0

    def reconcile(self, key: str) -> float:
        """Reconcile the tunnel once the firewall is in force; return when to look again.

        Raises:
            VipError: the kernel doesn't hold the firewall; the tunnel is left alone.
        """
        if not (self._firewall_restored or self._service_controller.ready):
            self._guard_at = self._guard_at or self._clock() + GUARD_S
            if self._clock() < self._guard_at:
                return SOON_S
            self._service_controller.ensure_firewall()
        return self._tunnel_controller.reconcile(key)
