"""What can go wrong in the CNI server.

AttachError
├── FrameError              bytes on the socket that are no request
├── JournalError            the journal can't be read or written
├── NetworkRefusedError     a pod has what would be the node's own address
└── CallRefusedError        the answer to one CNI call: code, message and details of the specification
    └── ExhaustedError      no free address now; further blocks or a released address may come

One invariant: every failure of a call reaches its caller as one CallRefusedError with a sentence that says what to do
or to wait for.
"""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """CNI error codes: up to 99 the specification's, from 100 ours."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    UNDECODABLE = 6
    INVALID_CONFIG = 7
    INVALID_NETNS = 8
    """Only in libcni's list, which everybody uses."""
    TRY_AGAIN = 11
    NOT_AVAILABLE = 50
    LIMITED = 51
    INTERFACE_EXISTS = 100
    ALREADY_ATTACHED = 101
    CHECK_FAILED = 102
    CANCELLED = 103
    WIRING_FAILED = 104
    INTERNAL = 199


class AttachError(Exception):
    """Root of this package's errors."""


class FrameError(AttachError):
    """What came over the socket is no request."""


class JournalError(AttachError):
    """The journal can't be read or written; the sentence names the file."""


class NetworkRefusedError(AttachError):
    """The node's part of the fleet can't be taken up; the sentence names the address."""


class CallRefusedError(AttachError):
    """One CNI call can't be served."""

    def __init__(self, code: Code, message: str, details: str = "") -> None:
        """``message`` is what the user sees in the pod's events."""
        super().__init__(f"{message}: {details}" if details else message)
        self.code = code
        self.message = message
        self.details = details


class ExhaustedError(CallRefusedError):
    """No free address now: worth waiting a moment for."""

    def __init__(self, message: str) -> None:
        """``message`` says which block is full."""
        super().__init__(Code.TRY_AGAIN, message)
