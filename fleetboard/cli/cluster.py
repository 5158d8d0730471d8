"""``fleetboard cluster list`` and ``fleetboard cluster remove``.

Invariant: removal starts with what carries traffic and ends with leftovers, and can be repeated after any failure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from fleetboard.cli import access, settings
from fleetboard.cli.errors import CommandError
from fleetboard.kube import errors
from fleetboard.kube.client import Client
from fleetboard.model import fleet, membership, meta, names, resource

_HEADER = ("CLUSTER", "ADMITTED", "REACHABLE", "STALE", "BLOCKS", "MESSAGE")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``cluster list`` and ``cluster remove``."""
    group = commands.add_parser("cluster", help="list and remove members").add_subparsers(
        required=True, metavar="COMMAND"
    )
    listing = group.add_parser("list", help="list the members of the clusterset")
    access.add_options(listing)
    listing.set_defaults(run=show)
    removal = group.add_parser("remove", help="end a cluster's membership")
    removal.add_argument("cluster", metavar="NAME", help="name of the cluster")
    access.add_options(removal)
    removal.set_defaults(run=remove)


def show(options: argparse.Namespace) -> None:
    """Print one line for each member.

    Raises:
        CommandError: a value can't be used.
        KubeError: the hub's API failed.
    """
    # parse_member wants a cluster name too; here it has no effect.
    clusterset = settings.parse_member(options.clusterset, "any").clusterset
    hub_access = access.connect(options)
    peers, _ = hub_access.client.list(resource.PEERS, names.clusterset_namespace(clusterset))
    rows = [describe(peer) for peer in sorted(peers, key=lambda peer: peer.metadata.name)]
    sys.stdout.write(render_table([_HEADER, *(row for row in rows if row[0] != names.HUB)]))


def remove(options: argparse.Namespace) -> None:
    """End a membership: tunnel, credential, objects.

    Raises:
        CommandError: a value can't be used, or there is no such member.
        KubeError: the hub's API failed.
    """
    member = settings.parse_member(options.clusterset, options.cluster)
    client = access.connect(options).client
    had_peer = client.delete(resource.PEERS, member.cluster, names.clusterset_namespace(member.clusterset))
    namespace = client.find(resource.NAMESPACES, member.namespace)
    ours = namespace is not None and namespace.metadata.labels.get(names.LABEL_CLUSTER) == member.cluster
    if not had_peer and not ours:
        raise CommandError(f"clusterset {member.clusterset!r} has no member {member.cluster!r}")
    if ours:
        revoke_and_empty(client, member)
    sys.stderr.write(
        f"Cluster {member.cluster} is no longer a member. Its tunnel and services are withdrawn; its credential is "
        "refused within 10 seconds; its addresses are not reused by other clusters for 24 hours.\n"
    )
    if ours and not _delete_namespace(client, member.namespace):
        sys.stderr.write(
            f"The empty namespace is left in place; delete it with: kubectl delete namespace {member.namespace}\n"
        )


def revoke_and_empty(client: Client, member: membership.Member) -> None:
    """Revoke every token of the member, then delete what it wrote."""
    for binding in membership.render_bindings(member):
        metadata = binding["metadata"]
        client.delete(resource.ROLE_BINDINGS, metadata["name"], metadata["namespace"])
    for secret in (membership.MEMBER_SECRET, membership.BOOTSTRAP):
        client.delete(resource.SECRETS, secret, member.namespace)
    # Tokens that a member asked for without binding them to the Secret end with the account.
    for account in (membership.MEMBER, membership.BOOTSTRAP):
        client.delete(resource.SERVICE_ACCOUNTS, account, member.namespace)
    for role in membership.render_roles(member):
        client.delete(resource.ROLES, role["metadata"]["name"], member.namespace)
    for kind in (resource.EXPORTED_SERVICES, resource.ENDPOINT_SLICES, resource.PEER_REPORTS):
        _delete_all(client, kind, member.namespace)
    client.delete(resource.RESOURCE_QUOTAS, membership.QUOTA, member.namespace)


def describe(peer: fleet.Peer) -> tuple[str, ...]:
    """Return a member's line, with the message of the first failing condition (Admitted, Degraded, Stale)."""
    status = peer.status
    by_type = {condition.type: condition for condition in status.conditions}
    admitted, degraded, stale = (by_type.get(kind) for kind in ("Admitted", "Degraded", "Stale"))
    wrong = [admitted] if admitted is not None and admitted.status != "True" else []
    wrong += [flag for flag in (degraded, stale) if flag is not None and flag.status == "True"]
    reachable = "-" if status.health is None else ("True" if status.health.reachable else "False")
    return (
        peer.metadata.name,
        _status(admitted),
        reachable,
        _status(stale),
        ",".join(status.cluster_cidrs) or "-",
        wrong[0].message if wrong else "",
    )


def render_table(rows: Iterable[Sequence[str]]) -> str:
    """Render rows in columns."""
    listed = list(rows)
    widths = [max(len(row[column]) for row in listed) for column in range(len(listed[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in listed)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _status(condition: meta.Condition | None) -> str:
    return "Unknown" if condition is None else condition.status


def _delete_all(client: Client, kind: resource.AnyResource, namespace: str) -> None:
    objects, _ = client.list(kind, namespace)
    for obj in objects:
        client.delete(kind, obj.metadata.name, namespace)


def _delete_namespace(client: Client, name: str) -> bool:
    try:
        client.delete(resource.NAMESPACES, name)
    except errors.ForbiddenError:
        return False
    return True
