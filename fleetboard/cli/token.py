"""``fleetboard token create``: creates a member's namespace and rights on the hub, and a token to join with.

Invariant: running it again replaces the bootstrap token, of which only the newest is valid, and changes nothing else.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import ssl
import sys

from fleetboard.cli import access, quota, settings
from fleetboard.cli.errors import CommandError
from fleetboard.kube import errors
from fleetboard.kube.client import Client
from fleetboard.model import membership, names, resource

FIELD_MANAGER = "fleetboard-cli"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``token create``."""
    group = commands.add_parser("token", help="let a cluster join").add_subparsers(required=True, metavar="COMMAND")
    parser = group.add_parser("create", help="print the values with which a cluster joins")
    parser.add_argument("--cluster", required=True, help="name of the cluster that is to join")
    parser.add_argument(
        "--export-namespaces",
        default=None,
        help="namespaces it may export services from, separated by commas (default: all, or as they were)",
    )
    parser.add_argument(
        "--server", default=os.environ.get("HUB_SERVER", ""), help="URL at which the cluster reaches the hub's API"
    )
    parser.add_argument("--ca-file", default="", help="PEM file that vouches for --server (default: the hub's own)")
    parser.add_argument("--ttl", default="10m", help="how long the token is valid (default: %(default)s)")
    access.add_options(parser)
    parser.set_defaults(run=create)


def create(options: argparse.Namespace) -> None:
    """Make all objects of the member, and print the values for its chart.

    Raises:
        CommandError: a value can't be used.
        KubeError: the hub's API failed.
    """
    member = settings.parse_member(options.clusterset, options.cluster)
    lifetime_s = settings.parse_ttl(options.ttl)
    server = settings.parse_server(options.server)
    allowed = settings.parse_export_namespaces(options.export_namespaces)
    hub_access = access.connect(options)
    ca_pem = read_ca(options.ca_file) if options.ca_file else hub_access.ca_pem()
    make_place(hub_access.client, member)
    token, bootstrap = open_bootstrap(hub_access.client, member, lifetime_s=lifetime_s)
    write_peer(hub_access.client, member, allowed=allowed, bootstrap=bootstrap)
    sys.stdout.write(settings.render_values(member, server=server, ca_pem=ca_pem, token=token))
    sys.stdout.flush()
    sys.stderr.write(
        f"The token is valid for one join, until {bootstrap.expires}. On cluster {member.cluster}:\n"
        f"  helm install fleetboard-agent CHART --namespace {names.NAMESPACE} --create-namespace --values THIS\n"
    )


def read_ca(path: str) -> bytes:
    """Read --ca-file.

    Raises:
        CommandError: no file, or no certificates in it.
    """
    try:
        pem = pathlib.Path(path).read_bytes()
        ssl.create_default_context(cadata=pem.decode("ascii"))
    except (OSError, ValueError) as err:
        raise CommandError(f"--ca-file {path!r} can't be used, expected PEM certificates: {err}") from err
    return pem


def make_place(client: Client, member: membership.Member) -> None:
    """Make the member's namespace, accounts, rights and quota, whatever of it is missing."""
    ensure_namespace(client, names.clusterset_namespace(member.clusterset), {names.LABEL_CLUSTERSET: member.clusterset})
    ensure_namespace(client, member.namespace, member.labels)
    for account in membership.render_accounts(member):
        client.apply(resource.SERVICE_ACCOUNTS, account, manager=FIELD_MANAGER)
    if not quota.ensure_counted(client, member):
        sys.stderr.write(
            f"The hub doesn't count yet what cluster {member.cluster} keeps here; for up to five minutes more its "
            "reports may be refused.\n"
        )
    for role in (membership.render_read_role(member.clusterset), *membership.render_roles(member)):
        client.apply(resource.ROLES, role, manager=FIELD_MANAGER)
    for binding in membership.render_bindings(member):
        client.apply(resource.ROLE_BINDINGS, binding, manager=FIELD_MANAGER)
    try:
        client.create(resource.SECRETS, membership.render_secret(member, membership.MEMBER_SECRET))
    except errors.AlreadyExistsError:
        # A new one would revoke the credential of a member that is at work.
        return


def ensure_namespace(client: Client, name: str, labels: dict[str, str]) -> None:
    """Make a namespace, or make sure that the one of that name is ours.

    Raises:
        CommandError: it belongs to someone else, or is being deleted.
    """
    found = client.find(resource.NAMESPACES, name)
    if found is None:
        client.create(resource.NAMESPACES, membership.render_namespace(name, labels))
        return
    mine = (names.LABEL_CLUSTERSET, names.LABEL_CLUSTER)
    if {key: value for key, value in found.metadata.labels.items() if key in mine} != labels:
        raise CommandError(
            f"namespace {name!r} is not this member's (expected labels {labels}): choose another cluster name"
        )
    if found.metadata.deletion_timestamp:
        raise CommandError(f"namespace {name!r} is still being deleted: try again in a minute")


def open_bootstrap(client: Client, member: membership.Member, *, lifetime_s: int) -> tuple[str, membership.Bootstrap]:
    """Return a new bootstrap token, which ends those given before."""
    client.delete(resource.SECRETS, membership.BOOTSTRAP, member.namespace)
    secret = client.create(resource.SECRETS, membership.render_secret(member, membership.BOOTSTRAP))
    request = membership.render_token_request(membership.BOOTSTRAP, lifetime_s=lifetime_s, uid=secret.metadata.uid)
    status = client.post(membership.token_path(member.namespace, membership.BOOTSTRAP), request)["status"]
    metadata = secret.metadata
    bootstrap = membership.Bootstrap(metadata.uid, metadata.creation_timestamp, status["expirationTimestamp"])
    return str(status["token"]), bootstrap


def write_peer(
    client: Client, member: membership.Member, *, allowed: list[str] | None, bootstrap: membership.Bootstrap
) -> None:
    """Write the member's Peer; without ``allowed`` it keeps the namespaces it may export, a new one gets all."""
    if allowed is None:
        found = client.find(resource.PEERS, member.cluster, names.clusterset_namespace(member.clusterset))
        allowed = found.spec.export_namespaces if found is not None else ["*"]
    peer = membership.render_peer(member, export_namespaces=allowed, bootstrap=bootstrap)
    client.apply(resource.PEERS, peer, manager=FIELD_MANAGER)
