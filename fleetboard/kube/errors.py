"""Errors of the API client, one tree that callers act on by type.

::

    KubeError
    ├── ConfigurationRefusedError   credentials or kubeconfig can't be used
    ├── UnreachableError            no answer: refused, timed out, no such host, cut off
    │   └── CertificateRefusedError the server's certificate is not the one we trust
    ├── AnswerRefusedError          an answer that can't be read as what was requested
    └── ApiError                    the server answered with a Status
        ├── UnauthorizedError 401   ├── ForbiddenError 403   ├── NotFoundError 404
        ├── ConflictError 409       ├── AlreadyExistsError 409
        ├── GoneError 410           ├── InvalidError 422     ├── ThrottledError 429
        └── ServerError 5xx

Invariant: no text of these errors holds a credential, or a body that isn't the message of a ``Status``.
"""

from __future__ import annotations

from typing import Any

import msgspec

MESSAGE_LIMIT = 256


class KubeError(Exception):
    """Any failure of a call to a Kubernetes API."""


class ConfigurationRefusedError(KubeError):
    """The kubeconfig or the pod's credentials can't be used; the message says why."""


class UnreachableError(KubeError):
    """The server gave no answer; whether it acted on the request is unknown."""


class CertificateRefusedError(UnreachableError):
    """The server's certificate failed verification."""


class AnswerRefusedError(KubeError):
    """The server's answer can't be read as what was requested."""


class ApiError(KubeError):
    """The server refused the request.

    Attributes:
        status: HTTP status code.
        reason: Machine-readable reason of the Status, empty without one.
        message: Message of the Status, at most 256 characters.
        retry_after_s: How long the server asked the client to wait, else 0.
    """

    def __init__(self, status: int, reason: str, message: str, *, request: str = "", retry_after_s: float = 0) -> None:
        self.status = status
        self.reason = reason
        self.message = message[:MESSAGE_LIMIT]
        self.request = request
        self.retry_after_s = retry_after_s
        super().__init__(status, reason, self.message)

    def __str__(self) -> str:
        head = " ".join(part for part in (str(self.status), self.reason) if part)
        tail = f" ({self.request})" if self.request else ""
        return (f"{head}: {self.message}" if self.message else head) + tail


class UnauthorizedError(ApiError):
    """401: the credential is missing, expired or revoked."""


class ForbiddenError(ApiError):
    """403: the credential doesn't allow this."""


class NotFoundError(ApiError):
    """404: no such object or no such kind."""


class ConflictError(ApiError):
    """409: another writer changed the object first, or owns the field."""


class AlreadyExistsError(ApiError):
    """409 on create: the name is taken."""


class GoneError(ApiError):
    """410: the resource version or the list's continue token is too old."""


class InvalidError(ApiError):
    """422: the object breaks its kind's rules."""


class ThrottledError(ApiError):
    """429: the server asks the client to wait."""


class ServerError(ApiError):
    """5xx: the server, or a server behind it, failed."""


_BY_REASON: dict[str, type[ApiError]] = {"AlreadyExists": AlreadyExistsError, "Expired": GoneError}
_BY_STATUS: dict[int, type[ApiError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
    429: ThrottledError,
}


class _Status(msgspec.Struct):
    kind: str = ""
    reason: str | None = None
    message: str | None = None
    code: int | None = None


# Made at import: several threads may meet their first error at once (see ``encoding``).
_decode_status = msgspec.json.Decoder(_Status).decode


def api_error(status: int, reason: str, message: str, **details: Any) -> ApiError:
    """Return the most specific error for an HTTP status and a Status' reason."""
    kind = _BY_REASON.get(reason) or _BY_STATUS.get(status) or (ServerError if status >= 500 else ApiError)
    return kind(status, reason, message, **details)


def from_answer(status: int, body: bytes, *, request: str = "", retry_after: str = "") -> ApiError:
    """Return the error for an answer; a body that isn't a Status is left out, since it may hold anything."""
    parsed = _parse(body)
    wait_s = float(retry_after) if retry_after.isdecimal() else 0.0
    return api_error(status, parsed.reason or "", parsed.message or "", request=request, retry_after_s=wait_s)


def from_event(body: bytes, *, request: str = "") -> ApiError:
    """Return the error for the Status inside a watch's ERROR event."""
    parsed = _parse(body)
    return api_error(parsed.code or 500, parsed.reason or "", parsed.message or "", request=request)


def _parse(body: bytes) -> _Status:
    try:
        parsed = _decode_status(body)
    except msgspec.DecodeError:
        return _Status()
    return parsed if parsed.kind == "Status" else _Status()
