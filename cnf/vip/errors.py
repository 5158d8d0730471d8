"""Errors of clusterset virtual addresses and the firewall.

    VipError
    |-- RulesetRefusedError   nft or the kernel didn't take a ruleset; nothing of it is in force
    |-- NftUnavailableError   nft or the kernel's nftables gave no answer in time
    |-- ConntrackError        the kernel didn't list, delete or take tracked connections
    `-- HandoverError             what a successor needs can't be written down

One invariant: whoever catches VipError has caught everything this package raises on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cnf.netlink import errors as netlink_errors


class VipError(Exception):
    """Base of this package's errors."""


class KernelRefusal(NamedTuple):
    """One message of a batch that the kernel refused, by its number there."""

    sequence: int
    error: netlink_errors.RefusedError


class RulesetRefusedError(VipError):
    """A transaction was refused as a whole; the sentence has the first reason, and nft's the line it is about.

    Attributes:
        refusals: What of a batch was refused; empty where nft refused text.
    """

    def __init__(self, sentence: str, refusals: Sequence[KernelRefusal] = ()) -> None:
        super().__init__(sentence)
        self.refusals = tuple(refusals)


class NftUnavailableError(VipError):
    """The nft command didn't run to its end, or the kernel didn't answer."""


class ConntrackError(VipError):
    """The kernel's connection tracking table couldn't be read or changed."""


class HandoverError(VipError):
    """A file for the next cnf couldn't be written."""
