"""Admits members, allocates their blocks, and writes the hub's decision about each into its Peer.

Invariant: what is wrong with one member is written into that member's Peer and changes nothing for another.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from fleetboard.kube import events
from fleetboard.model import fleet, membership, meta, names, resource, times
from fleetboard.runtime.environment import SettingRefusedError
from syncer.hub.claims import AddressesExhaustedError
from syncer.hub.heartbeats import STALE_S, Heartbeats
from syncer.hub.settings import FIELD_MANAGER
from syncer.hub.view import View
from syncer.rules import admission, allocation

log = logging.getLogger(__name__)

_SOON_S = 0.2
"""Until the next look, while the hub's own block or a late cache is awaited."""


class MemberController:
    """Reconciles one Peer at a time; keys are cluster names, the hub's own included."""

    def __init__(self, view: View, *, recorder: events.Recorder, heartbeats: Heartbeats | None = None) -> None:
        self._view = view
        self._recorder = recorder
        self._heartbeats = heartbeats or Heartbeats()

    def check_fleet(self) -> None:
        """Check that the fleet CIDR is the one that the clusterset was created with.

        Raises:
            SettingRefusedError: it differs, or a family is missing.
        """
        hub = self._view.peer(names.HUB)
        configured = [str(layout.fleet) for layout in self._view.clusterset.layouts]
        if hub is not None and not set(hub.status.fleet_cidrs) <= set(configured):
            raise SettingRefusedError(
                f"FLEET_CIDR {','.join(configured)!r} is not what this clusterset was created with, "
                f"{','.join(hub.status.fleet_cidrs)!r}: addresses in use can't move, so set it back"
            )

    def begin(self) -> list[str]:
        """Begin a term: restart the heartbeats' count, and return every key there is."""
        self._heartbeats.restart()
        peers = [peer.metadata.name for peer in list(self._view.peers.store.values())]
        # Owners without a Peer were removed while no replica led.
        return [names.HUB, *sorted({*peers, *self._view.claims.owners(allocation.CLUSTER_BLOCK)} - {names.HUB})]

    def reconcile(self, cluster: str) -> float | None:
        """Bring one Peer up to date."""
        hub = self._view.peer(names.HUB)
        if cluster == names.HUB:
            return self._reconcile_hub(hub)
        peer = self._view.peer(cluster)
        if peer is None:
            return self._release_blocks(cluster)
        if hub is None or not hub.status.cluster_cidrs:
            return _SOON_S
        return self._reconcile_member(peer, hub)

    def _reconcile_hub(self, peer: fleet.Peer | None) -> float | None:
        clusterset = self._view.clusterset
        if peer is None:
            spec = {"cluster": names.HUB, "exportNamespaces": []}
            labels = {names.LABEL_CLUSTERSET: clusterset.name, names.LABEL_CLUSTER: names.HUB}
            metadata = {"name": names.HUB, "namespace": clusterset.namespace, "labels": labels}
            peer = self._view.client.apply(resource.PEERS, {"metadata": metadata, "spec": spec}, manager=FIELD_MANAGER)
        wanted = self._network(fleet_mtu(clusterset.mtu, peer))
        wanted["clusterCidrs"] = self._blocks(names.HUB, peer.status.cluster_cidrs, units=1)
        self._write_status(peer, wanted, [])
        return None

    def _reconcile_member(self, peer: fleet.Peer, hub: fleet.Peer) -> float | None:
        report = self._view.report(peer.spec.cluster)
        mtu = fleet_mtu(self._view.clusterset.mtu, hub)
        if report is None and peer.status.cluster_uid:
            # It has reported before: what is known of it stays, and goes stale.
            return self._write_stale(peer)
        decision, blocks = self._decide(peer, report, mtu)
        age_s, again_s = 0.0, None
        if decision is not None and decision.accepted and report is not None:
            age_s, again_s = self._age(peer.spec.cluster, report.spec.heartbeat)
        shown = admission.conditions(decision, stale_s=STALE_S if age_s >= STALE_S else None)
        wanted = self._network(mtu)
        wanted["clusterCidrs"] = blocks
        wanted["clusterUid"] = decision.cluster_uid if decision is not None else ""
        self._write_status(peer, wanted, shown)
        revoke_s = self._revoke_bootstrap(peer, report)
        return min((wait for wait in (again_s, revoke_s) if wait is not None), default=None)

    def _decide(
        self, peer: fleet.Peer, report: fleet.PeerReport | None, mtu: int
    ) -> tuple[admission.AdmissionDecision | None, list[str]]:
        blocks = peer.status.cluster_cidrs
        if report is None:
            return None, blocks
        decision = admission.admit(peer, report, dataclasses.replace(self._view.clusterset, mtu=mtu))
        if not decision.admitted:
            return decision, blocks
        try:
            return decision, self._blocks(peer.spec.cluster, blocks, units=allocation.units_of(decision.blocks))
        except AddressesExhaustedError as err:
            # With a block it continues with what it has; without one it can't take part.
            uid = decision.cluster_uid if blocks else peer.status.cluster_uid
            refused = dataclasses.replace(
                decision, admitted=bool(blocks), reason="NoAddressesLeft", message=str(err), cluster_uid=uid
            )
            return refused, blocks

    def _blocks(self, owner: str, shown: Sequence[str], *, units: int) -> list[str]:
        owned = [
            unit
            for layout in self._view.clusterset.layouts
            for unit in self._view.claims.blocks(layout, owner, wanted=units)
        ]
        return [str(block) for block in allocation.assemble(shown, owned)]

    def _age(self, cluster: str, heartbeat: str) -> tuple[float, float | None]:
        """Return for how long the heartbeat has been unchanged, and when to check again."""
        age_s = self._heartbeats.see(cluster, heartbeat)
        if age_s < STALE_S:
            return age_s, STALE_S - age_s + 1
        # Before the member is called stale: perhaps the watch is behind.
        member_namespace = names.member_namespace(self._view.clusterset.name, cluster)
        live = self._view.client.find(resource.PEER_REPORTS, cluster, member_namespace)
        if live is not None and live.spec.heartbeat != heartbeat:
            return self._heartbeats.see(cluster, live.spec.heartbeat), STALE_S
        return age_s, None

    def _write_stale(self, peer: fleet.Peer) -> float | None:
        age_s, again_s = self._age(peer.spec.cluster, "")
        shown = [
            condition
            for condition in peer.status.conditions
            if condition.type in (admission.ADMITTED, admission.DEGRADED)
        ]
        shown.append(admission.stale(STALE_S if age_s >= STALE_S else None))
        wanted = {
            "fleetCidrs": peer.status.fleet_cidrs,
            "vipCidrs": peer.status.vip_cidrs,
            "mtu": peer.status.mtu,
            "clusterCidrs": peer.status.cluster_cidrs,
            "clusterUid": peer.status.cluster_uid,
        }
        self._write_status(peer, wanted, shown)
        return again_s

    def _release_blocks(self, cluster: str) -> float | None:
        # Read from the API: nobody else would get a block released by mistake for 24 h, but the fleet's layout
        # should not depend on a cache.
        if self._view.client.find(resource.PEERS, cluster, self._view.clusterset.namespace) is not None:
            return _SOON_S
        if self._view.claims.owned(allocation.CLUSTER_BLOCK, cluster):
            self._view.claims.release(allocation.CLUSTER_BLOCK, cluster)
            log.info("quarantined the blocks of a member that left, for 24 h", extra={"cluster": cluster})
        self._heartbeats.forget(cluster)
        return None

    def _revoke_bootstrap(self, peer: fleet.Peer, report: fleet.PeerReport | None) -> float | None:
        """Revoke the bootstrap token once it was used or has expired; return when to check again."""
        annotation = peer.metadata.annotations.get(membership.ANNOTATION_BOOTSTRAP, "")
        bootstrap = membership.Bootstrap.parse(annotation)
        if bootstrap is None:
            return None
        used = report is not None and report.metadata.creation_timestamp >= bootstrap.created
        left_s = -times.age(bootstrap.expires, now=self._view.now()).total_seconds()
        if not used and left_s > 0:
            return left_s + 1
        member_namespace = names.member_namespace(self._view.clusterset.name, peer.spec.cluster)
        self._view.client.delete(resource.SECRETS, membership.BOOTSTRAP, member_namespace, uid=bootstrap.uid)
        patch = {"metadata": {"annotations": {membership.ANNOTATION_BOOTSTRAP: None}}}
        self._view.client.merge_patch(resource.PEERS, peer.metadata.name, self._view.clusterset.namespace, patch)
        log.info("revoked a bootstrap token", extra={"cluster": peer.spec.cluster, "used": used})
        return None

    def _network(self, mtu: int) -> dict[str, Any]:
        layouts = self._view.clusterset.layouts
        return {
            "fleetCidrs": [str(layout.fleet) for layout in layouts],
            "vipCidrs": [str(layout.vips) for layout in layouts],
            "mtu": mtu,
        }

    def _write_status(self, peer: fleet.Peer, wanted: dict[str, Any], shown: Sequence[meta.Condition]) -> None:
        """Write the hub's part of a Peer's status, when it changes."""
        status = peer.status
        now = times.render(self._view.now())
        before = [condition for condition in status.conditions if condition.type in admission.TYPES]
        after: list[meta.Condition] = []
        for condition in shown:
            old = meta.find_condition(before, condition.type)
            after = meta.set_condition([*after, old] if old is not None else after, condition, now=now)
        current = {
            "fleetCidrs": status.fleet_cidrs,
            "vipCidrs": status.vip_cidrs,
            "mtu": status.mtu,
            "clusterCidrs": status.cluster_cidrs,
            "clusterUid": status.cluster_uid,
        }
        if after == sorted(before, key=lambda condition: condition.type) and all(
            current[key] == wanted[key] for key in wanted
        ):
            return
        body = {
            "metadata": {"name": peer.metadata.name, "namespace": peer.metadata.namespace},
            "status": wanted | {"conditions": after},
        }
        self._view.client.apply(resource.PEERS, body, manager=FIELD_MANAGER, subresource="status")
        self._report_conditions(peer, before, after)

    def _report_conditions(self, peer: fleet.Peer, before: list[meta.Condition], after: list[meta.Condition]) -> None:
        regarding = events.reference(resource.PEERS, peer.metadata)
        for condition in after:
            old = meta.find_condition(before, condition.type)
            if old is not None and (old.status, old.reason) == (condition.status, condition.reason):
                continue
            good = "True" if condition.type == admission.ADMITTED else "False"
            wrong = condition.status not in (good, "Unknown")
            log.log(
                logging.WARNING if wrong else logging.INFO,
                condition.message,
                extra={"cluster": peer.spec.cluster, "condition": condition.type, "reason": condition.reason},
            )
            if wrong or condition.type == admission.ADMITTED:
                self._recorder.emit(
                    regarding,
                    reason=condition.reason,
                    message=condition.message,
                    type_="Warning" if wrong else "Normal",
                )


def fleet_mtu(setting: int, hub: fleet.Peer) -> int:
    """Return the fleet's MTU. It is never raised: nobody checks again whether every path carries a larger one."""
    return min(setting, hub.status.mtu) if hub.status.mtu else setting
