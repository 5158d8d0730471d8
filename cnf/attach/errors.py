"""Errors of the CNI service.

AttachError
├── FrameError              bytes on the socket are not a request
├── JournalError            the journal can't be read or written
├── NetworkRefusedError     a pod holds what would be the node's own address
└── CallRefusedError        the answer to one CNI call: code, message and details of the specification
    └── ExhaustedError      no address is free now; a block or a released address may come

Every failure of a call reaches its caller as one CallRefusedError, whose message says what to do or to wait for.
"""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """CNI error codes: the specification's whole list up to 99, and our own from 100.

    cnf raises none of UNSUPPORTED_FIELD, UNKNOWN_CONTAINER and IO_FAILURE, which only complete the list. The CNI
    executable answers IO_FAILURE when it can't read stdin.
    """

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    UNDECODABLE = 6
    INVALID_CONFIG = 7
    INVALID_NETNS = 8
    """Only in libcni's list, which all runtimes use."""
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
    """Bytes on the socket are not a request."""


class JournalError(AttachError):
    """The journal can't be read or written; the message names the file."""


class NetworkRefusedError(AttachError):
    """The node's part of the fleet can't be taken up; the message names the address."""


class CallRefusedError(AttachError):
    """One CNI call can't be served."""

    def __init__(self, code: Code, message: str, details: str = "") -> None:
        """``message`` is what the user sees in the pod's events."""
        super().__init__(f"{message}: {details}" if details else message)
        self.code = code
        self.message = message
        self.details = details


class ExhaustedError(CallRefusedError):
    """No address is free now; one may be in a moment."""

    def __init__(self, message: str) -> None:
        """``message`` says which block is full."""
        super().__init__(Code.TRY_AGAIN, message)
