"""What ``ping -D`` prints, a line for each answer."""

from __future__ import annotations

import re

_ANSWER = re.compile(r"^\[([0-9.]+)\] \d+ bytes from .* icmp_seq=([0-9]+) ", re.MULTILINE)


def answers(printed: str) -> dict[int, float]:
    """Return when each packet's answer came, seconds since the epoch, by the packet's number from 1."""
    return {int(number): float(at) for at, number in _ANSWER.findall(printed)}


def lost(seen: dict[int, float]) -> list[int]:
    """Return the packets that have no answer though a later one has.

    ping itself waits for its last packets no longer than it waited between two, and calls them lost after that.
    """
    return [number for number in range(1, max(seen, default=0)) if number not in seen]
