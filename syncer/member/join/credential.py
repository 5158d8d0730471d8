"""Exchanges the bootstrap token for a member token, renews that daily, and follows the hub's CA.

Invariant: a working credential is never dropped before a newer one is stored in this cluster. So a restart at any
moment, with or without the hub, finds one.

The daemon calls ``ensure`` until it returns, gives ``connect()`` to every part that talks to the hub, and runs ``run``
in a thread. ``on_change`` is called when the hub's address, this cluster's name or the CA changed: older clients must
be discarded, which a restart of the process does.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import random
import threading
import time
from collections.abc import Callable

from fleetboard.kube import errors
from fleetboard.kube.client import Client
from fleetboard.model import fleet, membership, names, resource
from syncer.member.join import settings
from syncer.member.join.errors import (
    ClusterNameTakenError,
    ClusterRefusedError,
    HubCertificateError,
    HubRefusedError,
    HubUnreachableError,
    JoinError,
    JoinSettingsError,
    TokenRefusedError,
)
from syncer.member.join.settings import HubJoin, StoredCredential
from syncer.member.settings import FIELD_MANAGER

log = logging.getLogger(__name__)

CHECK_S = 60.0
"""Between two looks at the Secret and the CA: a changed one is noticed this late."""
RENEW_S = 24 * 3600.0
"""Age at which a token is renewed, if that is before half of its life."""


class Credential:
    """The member's credential on the hub.

    Attributes:
        problem: Why the last attempt failed to reach the hub, or was refused; None when it succeeded.
    """

    def __init__(
        self,
        local: Client,
        *,
        namespace: str,
        cluster_uid: str,
        user_agent: str = "fleetboard-syncer",
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.problem: JoinError | None = None
        self._local = local
        self._namespace = namespace
        self._cluster_uid = cluster_uid
        self._user_agent = user_agent
        self._on_change = on_change
        self._clock = clock
        self._join: HubJoin | None = None
        self._stored: StoredCredential | None = None

    @property
    def join(self) -> HubJoin:
        """The chart's settings; available after the first ``ensure``, even one that failed at the hub."""
        if self._join is None:
            raise JoinSettingsError(f"Secret {settings.JOIN_SECRET!r} was not read yet")
        return self._join

    def token(self) -> str:
        """Return the current member token; give this method to ``Client.from_token``."""
        if self._stored is None:
            raise TokenRefusedError(f"cluster {self.join.cluster!r} has not joined the hub yet")
        return self._stored.token

    def connect(self) -> Client:
        """Return a client of the hub that always sends the newest token."""
        stored = self._stored
        return self._client(stored.ca_pem if stored is not None else self.join.ca_pem, self.token)

    def ensure(self) -> None:
        """Load the stored credential, or exchange the bootstrap token for one.

        A stored credential is not verified here, since the hub may be unreachable; ``run`` verifies it.

        Raises:
            JoinError: nothing usable is stored and the exchange failed.
            KubeError: this cluster's own API failed.
        """
        self._read_join()
        if self._stored is None:
            self._record_problem(self._exchange)

    def run(self, stop: threading.Event) -> None:
        """Verify the credential at the hub every minute, and renew it daily, until stopped."""
        while not stop.is_set():
            try:
                self._read_join()
                self._record_problem(self.refresh)
            except JoinError as err:
                log.warning(
                    "the hub refused this cluster or can't be reached", extra={"reason": err.reason, "error": str(err)}
                )
            except errors.KubeError as err:
                log.warning("could not read or store the hub's credential", extra={"error": str(err)})
            stop.wait(CHECK_S * random.uniform(0.9, 1.1))

    def refresh(self) -> None:
        """Verify the credential at the hub, renew it when due, follow the hub's CA, and replace a revoked one.

        Raises:
            JoinError: the hub refuses this cluster or can't be reached; the stored credential stays.
        """
        if self._stored is None:
            self._exchange()
            return
        try:
            self._verify(self.connect())
        except TokenRefusedError:
            # The operator may have set a new bootstrap token after removing this cluster.
            self._exchange()
            return
        except HubCertificateError:
            self._try_ca(self.join.ca_pem)
            return
        if self._clock() >= renewal_due(self._stored):
            self._renew(self._stored)
            self._follow_ca()

    def _record_problem(self, step: Callable[[], None]) -> None:
        try:
            step()
        except JoinError as err:
            self.problem = err
            raise
        self.problem = None

    def _read_join(self) -> None:
        found = self._local.find(resource.SECRETS, settings.JOIN_SECRET, self._namespace)
        before = self._join
        try:
            self._join = settings.parse_join(found)
        except JoinError as err:
            self.problem = err
            raise
        if before is not None and (before.server, before.member) != (self._join.server, self._join.member):
            self._on_change()
        if self._stored is None or not self._stored.is_for(self._join):
            secret = self._local.find(resource.SECRETS, settings.CREDENTIAL_SECRET, self._namespace)
            stored = settings.parse_credential(secret)
            self._stored = stored if stored is not None and stored.is_for(self._join) else None

    def _exchange(self) -> None:
        join = self.join
        bootstrap = self._client(join.ca_pem, lambda: join.token)
        credential = self._request(bootstrap, join.ca_pem)
        hub = self._client(credential.ca_pem, lambda: credential.token)
        self._verify(hub)
        self._store(credential)
        log.info("joined the hub", extra={"cluster": join.cluster, "server": join.server})
        try:
            hub.delete(resource.SECRETS, membership.BOOTSTRAP, join.member.namespace)
        except errors.KubeError as err:
            # The hub deletes it as well when it sees the first report, and it expires.
            log.info("could not revoke the bootstrap token", extra={"error": str(err)})

    def _renew(self, stored: StoredCredential) -> None:
        self._store(self._request(self.connect(), stored.ca_pem))
        log.info("renewed the hub's credential", extra={"cluster": self.join.cluster})

    def _request(self, hub: Client, ca_pem: bytes) -> StoredCredential:
        join = self.join
        request = membership.render_token_request(membership.MEMBER_SECRET, lifetime_s=membership.MEMBER_TOKEN_S)
        try:
            answer = hub.post(join.member.token_path, request)
        except errors.KubeError as err:
            raise explain(err, join) from err
        status = answer["status"]
        expires = datetime.datetime.fromisoformat(status["expirationTimestamp"]).timestamp()
        return StoredCredential(
            server=join.server,
            namespace=join.member.namespace,
            ca_pem=ca_pem,
            token=status["token"],
            issued=self._clock(),
            expires=expires,
        )

    def _verify(self, hub: Client) -> None:
        join = self.join
        try:
            peer = hub.find(resource.PEERS, join.cluster, names.clusterset_namespace(join.clusterset))
        except errors.KubeError as err:
            raise explain(err, join) from err
        check_peer(peer, join=join, cluster_uid=self._cluster_uid)

    def _follow_ca(self) -> None:
        stored = self._stored
        assert stored is not None, "renewed before"
        try:
            found = self.connect().find(resource.CONFIG_MAPS, membership.ROOT_CA, self.join.member.namespace)
        except errors.KubeError as err:
            log.info("could not read the hub's CA", extra={"error": str(err)})
            return
        published = found.data.get("ca.crt", "").encode() if found is not None else b""
        if published and published != stored.ca_pem and settings.is_ca_bundle(published):
            try:
                self._try_ca(published)
            except JoinError as err:
                # The hub's URL is served under another CA than the one that the hub's pods see.
                log.debug("the hub's own CA did not sign the certificate of its URL", extra={"error": str(err)})

    def _try_ca(self, ca_pem: bytes) -> None:
        """Switch to ``ca_pem`` if the hub can be verified with it."""
        assert self._stored is not None, "only called with a stored credential"
        self._verify(self._client(ca_pem, self.token))
        if ca_pem != self._stored.ca_pem:
            self._store(dataclasses.replace(self._stored, ca_pem=ca_pem))
            log.info("the hub's CA changed", extra={"cluster": self.join.cluster})
            self._on_change()

    def _store(self, stored: StoredCredential) -> None:
        secret = settings.render_credential(stored, namespace=self._namespace)
        self._local.apply(resource.SECRETS, secret, manager=FIELD_MANAGER)
        self._stored = stored

    def _client(self, ca_pem: bytes, token: Callable[[], str]) -> Client:
        return Client.from_token(self.join.server, ca_pem=ca_pem, token=token, user_agent=self._user_agent)


def renewal_due(stored: StoredCredential) -> float:
    """Return when to renew: daily, or at half the lifetime of a token that the hub limits to less than two days."""
    return stored.issued + min(RENEW_S, (stored.expires - stored.issued) / 2)


def check_peer(peer: fleet.Peer | None, *, join: HubJoin, cluster_uid: str) -> None:
    """Check that the hub's Peer with this cluster's name belongs to this cluster.

    Raises:
        ClusterRefusedError: the hub has no such member.
        ClusterNameTakenError: the Peer belongs to another cluster.
    """
    if peer is None:
        raise ClusterRefusedError(
            f"the hub {join.server} has no member {join.cluster!r} in clusterset {join.clusterset!r}: "
            f"run `fleetboard token create --cluster {join.cluster}` there"
        )
    if peer.status.cluster_uid and peer.status.cluster_uid != cluster_uid:
        raise ClusterNameTakenError(
            f"cluster name {join.cluster!r} is taken by another cluster of clusterset {join.clusterset!r}: choose "
            f"another name, or run `fleetboard cluster remove {join.cluster}` on the hub if that cluster is gone"
        )


def explain(err: errors.KubeError, join: HubJoin) -> JoinError:
    """Explain the hub's answer to an operator, in one message."""
    who = f"cluster {join.cluster!r} of clusterset {join.clusterset!r}"
    match err:
        case errors.CertificateRefusedError():
            return HubCertificateError(f"the certificate of the hub {join.server} does not match hub.caData: {err}")
        case errors.UnreachableError():
            return HubUnreachableError(f"the hub {join.server} can't be reached: {err}")
        case errors.UnauthorizedError():
            return TokenRefusedError(
                f"the hub {join.server} refused the token of {who}: it is unknown, expired, used or revoked; "
                f"run `fleetboard token create --cluster {join.cluster}` there and set hub.token to the new one"
            )
        case errors.ForbiddenError() | errors.NotFoundError():
            return ClusterRefusedError(
                f"the token for the hub {join.server} is not one of {who}: "
                f"hub.cluster and hub.clusterset must be those that `fleetboard token create` printed"
            )
    return HubRefusedError(f"the hub {join.server} answered {who}: {err}")
