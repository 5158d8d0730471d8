"""Waits until the hub counts a member's objects; until then its API refuses every report of the member.

The quota controller learns of new kinds twice a minute. It looks at a quota when the quota is created, and then only
every five minutes. On a hub that has just received our CRDs, the quota is therefore created again until it is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fleetboard.kube.client import Client
from fleetboard.model import membership, resource

FIELD_MANAGER = "fleetboard-cli"
LOOK_S = 1.0
ANEW_S = 5.0
PATIENCE_S = 90.0


def ensure_counted(
    client: Client,
    member: membership.Member,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Make the member's quota and wait until it counts every kind; return False when it doesn't in ``PATIENCE_S``."""
    wanted = membership.render_quota(member)
    client.apply(resource.RESOURCE_QUOTAS, wanted, manager=FIELD_MANAGER)
    made = began = clock()
    while not is_counted(client, member):
        now = clock()
        if now - began >= PATIENCE_S:
            return False
        if now - made >= ANEW_S:
            client.delete(resource.RESOURCE_QUOTAS, membership.QUOTA, member.namespace)
            client.apply(resource.RESOURCE_QUOTAS, wanted, manager=FIELD_MANAGER)
            made = now
        pause(LOOK_S)
    return True


def is_counted(client: Client, member: membership.Member) -> bool:
    """Return whether the quota knows how many the member has of every kind that it limits."""
    found = client.find(resource.RESOURCE_QUOTAS, membership.QUOTA, member.namespace)
    return found is not None and membership.OBJECT_QUOTA.keys() <= found.status.get("used", {}).keys()
