"""How long to wait before the next try.

Invariant: a wait never exceeds the cap, and two processes that fail together don't retry together.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from fleetboard.kube import errors

RETRY_AFTER_LIMIT_S = 60.0


def delay(failures: int, *, base_s: float, cap_s: float, jitter: Callable[[float, float], float]) -> float:
    """Return the wait after 1 or more failures in a row: it doubles up to the cap; jitter takes 50 to 100 % of it."""
    # The exponent is bounded so that days of failures don't overflow a float.
    return jitter(0.5, 1.0) * min(cap_s, base_s * 2.0 ** min(failures - 1, 32))


class Backoff:
    """Counts failures in a row and returns the wait after each."""

    def __init__(
        self, *, base_s: float = 0.5, cap_s: float = 30.0, jitter: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._base_s, self._cap_s, self._jitter = base_s, cap_s, jitter
        self.failures = 0

    def after(self, err: Exception | None = None) -> float:
        """Count one failure and return the wait; a server's Retry-After lengthens it."""
        self.failures += 1
        wait_s = delay(self.failures, base_s=self._base_s, cap_s=self._cap_s, jitter=self._jitter)
        asked_s = err.retry_after_s if isinstance(err, errors.ApiError) else 0.0
        return max(wait_s, min(asked_s, RETRY_AFTER_LIMIT_S))

    def reset(self) -> None:
        """Forget the failures, after a success."""
        self.failures = 0
