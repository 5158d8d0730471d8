"""Which namespaces a cluster takes services of the clusterset in.

One invariant: what is not imported has no name either: syncer and crossdns decide by the same words.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Namespaces:
    """Which namespaces this cluster accepts imports in: ``*`` accepts all; a refusal goes first."""

    accepted: frozenset[str] = frozenset({"*"})
    refused: frozenset[str] = frozenset({"kube-system"})

    def accept(self, namespace: str) -> bool:
        """Tell whether services of ``namespace`` may be imported, and have names."""
        return namespace not in self.refused and ("*" in self.accepted or namespace in self.accepted)
