"""Which nodes of a member keep a session with the relay beside its leader.

Pure. Invariant: every cnf and syncer choose by this rule, so the relay admits exactly the sessions that nodes keep.
"""

from __future__ import annotations

from collections.abc import Iterable

STANDBYS = 2


def choose_standbys(leader: str, nodes: Iterable[str]) -> tuple[str, ...]:
    """Return the first two nodes by name, other than the leader."""
    return tuple(sorted(set(nodes) - {leader})[:STANDBYS])
