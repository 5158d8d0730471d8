"""Why joining, or staying joined, fails; each message is the one sentence an operator needs.

    JoinError
    +-- JoinSettingsError        the Secret the chart wrote can't be used
    +-- HubUnreachableError      no answer from the hub's API
    +-- HubCertificateError      the hub's certificate isn't signed by the CA we were given
    +-- TokenRefusedError        unknown, expired, used or revoked token
    +-- ClusterRefusedError      the token is another cluster's, or the cluster isn't known
    +-- ClusterNameTakenError    another cluster has this name already
    +-- HubRefusedError          any other answer of the hub's API

``reason`` is the machine-readable reason of the ``Joined`` condition.
"""

from __future__ import annotations


class JoinError(Exception):
    """Joining the hub failed."""

    reason = "JoinFailed"


class JoinSettingsError(JoinError):
    """The Secret ``hub-join`` is missing or malformed; trying again doesn't help before it changes."""

    reason = "SettingsRefused"


class HubUnreachableError(JoinError):
    """The hub's API didn't answer; it will be tried again."""

    reason = "HubUnreachable"


class HubCertificateError(JoinError):
    """The hub's API showed a certificate that the CA doesn't vouch for."""

    reason = "HubCertificateRefused"


class TokenRefusedError(JoinError):
    """The hub doesn't know the token (any more)."""

    reason = "TokenRefused"


class ClusterRefusedError(JoinError):
    """The token doesn't belong to the cluster name that was given."""

    reason = "ClusterRefused"


class ClusterNameTakenError(JoinError):
    """Another cluster joined under this name before."""

    reason = "ClusterNameTaken"


class HubRefusedError(JoinError):
    """The hub's API answered with another error."""

    reason = "HubRefused"
