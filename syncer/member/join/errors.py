"""Why joining the hub fails; each message tells an operator what to do.

    JoinError
    ├── JoinSettingsError        the Secret the chart wrote can't be used
    ├── HubUnreachableError      no answer from the hub's API
    ├── HubCertificateError      the hub's certificate is not signed by the configured CA
    ├── TokenRefusedError        unknown, expired, used or revoked token
    ├── ClusterRefusedError      the token belongs to another cluster, or the cluster is unknown
    ├── ClusterNameTakenError    another cluster has this name already
    ├── HubRefusedError          any other answer of the hub's API

``reason`` is the machine-readable reason of the ``Joined`` condition.
"""

from __future__ import annotations


class JoinError(Exception):
    """Joining the hub failed."""

    reason = "JoinFailed"


class JoinSettingsError(JoinError):
    """The Secret ``hub-join`` is missing or malformed; a retry does not help until it changes."""

    reason = "SettingsRefused"


class HubUnreachableError(JoinError):
    """The hub's API did not answer; kubelet or ``Credential.run`` repeats the attempt."""

    reason = "HubUnreachable"


class HubCertificateError(JoinError):
    """The hub's API presented a certificate that the CA did not sign."""

    reason = "HubCertificateRefused"


class TokenRefusedError(JoinError):
    """The hub does not accept the token, or no longer does."""

    reason = "TokenRefused"


class ClusterRefusedError(JoinError):
    """The token does not belong to the given cluster name."""

    reason = "ClusterRefused"


class ClusterNameTakenError(JoinError):
    """Another cluster has already joined under this name."""

    reason = "ClusterNameTaken"


class HubRefusedError(JoinError):
    """The hub's API returned another error."""

    reason = "HubRefused"
