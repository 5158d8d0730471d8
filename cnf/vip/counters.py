"""Reads what the firewall dropped and rejected.

One invariant: a name that the ruleset has is always in the answer, so a metric never disappears while the table is
there. Counters start from nought when the table is replaced, as Prometheus' counters may.
"""

from __future__ import annotations

import dataclasses
import subprocess

import msgspec

from cnf.vip import errors, firewall

_LIST = ("nft", "-j", "list", "counters", "table", *firewall.TABLE.split())


@dataclasses.dataclass(frozen=True, slots=True)
class Count:
    """What one named counter saw."""

    packets: int
    bytes: int


class _Counter(msgspec.Struct):
    name: str
    packets: int
    bytes: int


class _Object(msgspec.Struct):
    counter: _Counter | None = None


class _Answer(msgspec.Struct):
    nftables: list[_Object]


def read(*, timeout_s: float = 10.0) -> dict[str, Count]:
    """Return the counters by name, in the network namespace of the calling thread; none when there is no table.

    Raises:
        NftUnavailableError: nft gave no answer.
    """
    try:
        done = subprocess.run(_LIST, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (subprocess.TimeoutExpired, OSError) as err:
        raise errors.NftUnavailableError(f"nft can't list counters: {err}") from err
    return parse(done.stdout) if done.returncode == 0 else {}


def parse(text: str) -> dict[str, Count]:
    """Parse nft's JSON.

    Raises:
        NftUnavailableError: it isn't what nft prints.
    """
    try:
        answer = msgspec.json.decode(text, type=_Answer)
    except msgspec.DecodeError as err:
        raise errors.NftUnavailableError(f"nft's list of counters can't be read: {err}") from err
    return {
        seen.counter.name: Count(seen.counter.packets, seen.counter.bytes)
        for seen in answer.nftables
        if seen.counter is not None
    }
