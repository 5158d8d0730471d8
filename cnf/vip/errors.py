"""Errors of clusterset virtual addresses and the firewall.

VipError
├── RulesetRefusedError     nft or the kernel refused a ruleset; nothing of it is in force
├── NftUnavailableError     nft or the kernel's nftables gave no answer in time
├── ConntrackError          the kernel didn't list, delete or accept tracked connections
└── HandoverError           a file for the next cnf can't be written

VipError catches everything that this package raises on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cnf.netlink import errors as netlink_errors


class VipError(Exception):
    """Base of this package's errors."""


class KernelRefusal(NamedTuple):
    """A message of a batch that the kernel refused, by its number in the batch."""

    sequence: int
    error: netlink_errors.RefusedError


class RulesetRefusedError(VipError):
    """A transaction was refused as a whole; the sentence has the first reason, and with nft the line it is about.

    Attributes:
        refusals: The refused messages of a batch; empty where nft refused text.
    """

    def __init__(self, sentence: str, refusals: Sequence[KernelRefusal] = ()) -> None:
        super().__init__(sentence)
        self.refusals = tuple(refusals)


class NftUnavailableError(VipError):
    """The nft command didn't run to its end, or the kernel gave no answer."""


class ConntrackError(VipError):
    """The kernel's connection tracking table couldn't be read or changed."""


class HandoverError(VipError):
    """A file for the next cnf couldn't be written."""
