"""Decides in which namespaces a cluster imports services; syncer and crossdns read the same settings."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Namespaces:
    """The namespaces this cluster accepts imports in: ``*`` accepts all; ``refused`` has precedence."""

    accepted: frozenset[str] = frozenset({"*"})
    refused: frozenset[str] = frozenset({"kube-system"})

    def accept(self, namespace: str) -> bool:
        """Return whether services of ``namespace`` may be imported, and have names."""
        return namespace not in self.refused and ("*" in self.accepted or namespace in self.accepted)
