"""A member's syncer from its first moment: lead, join, then work as a member.

Invariant: until a cluster has joined, any failure at the hub ends the process, with one message in the log and in the
Joined condition; kubelet repeats it. Once it has joined, an unreachable hub never ends the process. Failures of this
cluster's own API are retried.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Callable

from fleetboard.kube import backoff, errors
from fleetboard.kube.client import Client
from fleetboard.kube.lease import Elector
from fleetboard.model import core, resource
from fleetboard.runtime import threads
from syncer.member.join import settings as join_settings
from syncer.member.join.credential import Credential
from syncer.member.join.errors import JoinError
from syncer.member.member import JoinedMember
from syncer.member.report import controller, plan
from syncer.member.settings import MemberSettings

log = logging.getLogger(__name__)

LEASE = "syncer"
USER_AGENT = "fleetboard-syncer"


class RestartNeededError(Exception):
    """This process must start again: its Lease was lost, or what it joined with changed."""


class Daemon:
    """One syncer process: campaigns for the Lease, joins the hub, and runs the member's threads.

    It ends when the Lease is lost or the settings it joined with change.

    Attributes:
        exit_status: What the process ends with.
        member: The joined parts, None before joining.
    """

    def __init__(self, settings: MemberSettings, *, local: Client) -> None:
        self._settings, self._local = settings, local
        self._elector = Elector(local, namespace=settings.namespace, name=LEASE, identity=settings.identity)
        self._leading, self._ended = threading.Event(), threading.Event()
        self._end_reason = ""
        self.exit_status = 0
        self.member: JoinedMember | None = None

    def threads(self) -> dict[str, Callable[[threading.Event], None]]:
        """Return the threads to run, by name."""
        return {"lease": self._campaign, "member": self._run_until_ended}

    def when_holding(self, function: Callable[[threading.Event], None]) -> Callable[[threading.Event], None]:
        """Return ``function``, delayed until this process holds the Lease."""

        def run(stop: threading.Event) -> None:
            if self._wait_for_lease(stop):
                function(stop)

        return run

    def unready_reason(self) -> str | None:
        """Return why this process isn't ready, or None.

        A candidate without the Lease is ready, so that a rolling update continues.
        """
        if not self._leading.is_set():
            return None
        return self.member.unready_reason() if self.member is not None else "this cluster has not joined the hub"

    def _campaign(self, stop: threading.Event) -> None:
        self._elector.run(stop, on_start=self._leading.set, on_stop=lambda: self._end("the lease was lost"))

    def _wait_for_lease(self, stop: threading.Event) -> bool:
        """Wait until this process holds the Lease; return False when stopped before."""
        while not self._leading.wait(0.1):
            if stop.is_set():
                return False
        return True

    def _end(self, reason: str) -> None:
        self._end_reason = reason
        self._ended.set()

    def _run_until_ended(self, stop: threading.Event) -> None:
        if not self._wait_for_lease(stop):
            return
        try:
            self._retry(stop, lambda: self._join_and_serve(stop))
        except JoinError as err:
            log.error("%s", err, extra={"reason": err.reason})
            record_refusal(self._local, namespace=self._settings.namespace, reason=err.reason, message=str(err))
            self.exit_status = 1
        except RestartNeededError as err:
            log.error("ending the process: %s", err)
            self.exit_status = 1
        stop.set()

    def _join_and_serve(self, stop: threading.Event) -> None:
        cluster_uid = self._local.get(resource.NAMESPACES, "kube-system").metadata.uid
        credential = Credential(
            self._local,
            namespace=self._settings.namespace,
            cluster_uid=cluster_uid,
            user_agent=USER_AGENT,
            on_change=lambda: self._end("the hub's address, its CA or this cluster's name changed"),
        )
        credential.ensure()
        self._delete_other_reports(credential.join.cluster)
        member = JoinedMember(self._settings, local=self._local, credential=credential, cluster_uid=cluster_uid)
        self.member = member
        try:
            threads.run({**member.threads(), "watchdog": self._raise_when_ended}, stop)
        except errors.KubeError as err:
            # Each part retries its own API calls: one that gave up has a bug.
            raise RuntimeError("a thread ended by an API error") from err

    def _raise_when_ended(self, stop: threading.Event) -> None:
        while not stop.wait(0.1):
            if self._ended.is_set():
                raise RestartNeededError(self._end_reason)

    def _retry(self, stop: threading.Event, step: Callable[[], None]) -> None:
        """Repeat ``step`` until this cluster's own API lets it succeed, or until stopped."""
        wait = backoff.Backoff(cap_s=10)
        while not stop.is_set():
            try:
                step()
            except errors.KubeError as err:
                delay_s = wait.after(err)
                log.warning("could not use this cluster's API, retrying", extra={"error": str(err), "retry_s": delay_s})
                stop.wait(delay_s)
            else:
                return

    def _delete_other_reports(self, cluster: str) -> None:
        """Delete the reports under former names of this cluster."""
        for other in self._local.list(resource.PEER_REPORTS, self._settings.namespace)[0]:
            if other.metadata.name != cluster:
                self._local.delete(resource.PEER_REPORTS, other.metadata.name, self._settings.namespace)


def record_refusal(local: Client, *, namespace: str, reason: str, message: str) -> None:
    """Write into this cluster's own PeerReport why it can't join, even if its settings can't be read."""
    try:
        secret = local.find(resource.SECRETS, join_settings.JOIN_SECRET, namespace)
        cluster = controller.reportable_name(_cluster_of(secret))
        condition = plan.refused(reason, message)
        controller.write_joined(local, condition, cluster=cluster, namespace=namespace, current=None)
    except errors.KubeError as err:
        log.warning("could not write the Joined condition", extra={"error": str(err)})


def _cluster_of(secret: core.Secret | None) -> str:
    """Return the cluster name from the chart's Secret, even if the rest of it is invalid."""
    try:
        return base64.b64decode(secret.data["cluster"]).decode() if secret is not None else ""
    except (KeyError, ValueError):
        return ""
