"""Deletes this cluster's imports and exports when Fleetboard is uninstalled.

Invariant: only objects that syncer created or adopted are touched. A hub that can't be reached stops nothing here:
``fleetboard cluster remove`` cleans up there.
"""

from __future__ import annotations

import logging

from fleetboard.kube import client as kube_client
from fleetboard.kube import errors
from fleetboard.model import mcs, membership, names, resource
from syncer.member.dns import forwarding
from syncer.member.join import settings
from syncer.member.join.errors import JoinError

log = logging.getLogger(__name__)

ADOPTED = "adopted"


def leave(client: kube_client.Client, namespace: str, *, forwards: bool) -> None:
    """Remove the DNS forwarding, the imports, and the exports on the hub.

    Raises:
        KubeError: this cluster's own API failed.
    """
    if forwards:
        forwarding.ForwardingController(client, namespace=namespace).remove()
    _remove_imports(client)
    try:
        _leave_hub(client, namespace)
    except (errors.KubeError, JoinError) as err:
        log.warning(
            "could not delete this cluster's exports on the hub; run `fleetboard cluster remove` there",
            extra={"error": str(err)},
        )


def _remove_imports(client: kube_client.Client) -> None:
    for found in client.list(resource.SERVICE_IMPORTS)[0]:
        owner = found.metadata.annotations.get(names.ANNOTATION_IMPORT_OWNER)
        if owner == ADOPTED:
            _empty(client, found)
        elif owner is not None:
            client.delete(resource.SERVICE_IMPORTS, found.metadata.name, found.metadata.namespace)
    for slice_ in client.list(resource.ENDPOINT_SLICES, selector=names.IMPORTED_SLICES)[0]:
        client.delete(resource.ENDPOINT_SLICES, slice_.metadata.name, slice_.metadata.namespace)


def _empty(client: kube_client.Client, found: mcs.ServiceImport) -> None:
    """Keep a user's own ServiceImport, without what syncer wrote into it."""
    patch = {"metadata": {"annotations": {names.ANNOTATION_IMPORT_OWNER: None}}, "spec": {"ips": None}}
    client.merge_patch(resource.SERVICE_IMPORTS, found.metadata.name, found.metadata.namespace, patch)


def _leave_hub(client: kube_client.Client, namespace: str) -> None:
    """Delete this cluster's objects on the hub, the report last: it makes the cluster a member."""
    join = settings.parse_join(client.find(resource.SECRETS, settings.JOIN_SECRET, namespace))
    secret = client.find(resource.SECRETS, settings.CREDENTIAL_SECRET, namespace)
    stored = settings.parse_credential(secret)
    if stored is None or not stored.is_for(join):
        log.info("this cluster never joined; the hub has none of its objects")
        return
    token = stored.token
    hub = kube_client.Client.from_token(
        join.server, ca_pem=stored.ca_pem, token=lambda: token, user_agent="fleetboard-uninstall"
    )
    member: membership.Member = join.member
    kinds: tuple[resource.AnyResource, ...] = (
        resource.ENDPOINT_SLICES,
        resource.EXPORTED_SERVICES,
        resource.PEER_REPORTS,
    )
    for kind in kinds:
        for obj in hub.list(kind, member.namespace)[0]:
            hub.delete(kind, obj.metadata.name, member.namespace)
    log.info("deleted this cluster's exports on the hub", extra={"server": join.server})
