"""``fleetboard crds install``: brings a cluster's CustomResourceDefinitions up to this version, never back.

Helm installs what is in a chart's crds/ once and never looks at it again; the charts run this before each install and
upgrade. Invariant: what is there and newer stays as it is.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time
from typing import Any

import yaml

from fleetboard.cli import access
from fleetboard.cli.errors import CommandError
from fleetboard.kube import errors
from fleetboard.kube.client import Client
from fleetboard.model import core, crds, mcs, resource

FIELD_MANAGER = "fleetboard-crds"
ESTABLISHED_S = 30.0
REACHABLE_S = 60.0
"""How long to wait for the API server: a hook's Job has few retries, and a node's proxy may lag behind."""

_CHECKOUT = pathlib.Path(__file__).parents[2] / "manifests/crds"
_IMAGE = pathlib.Path("/opt/fleetboard/crds")
_SAID = {
    crds.CrdStep.INSTALL: "installed {ours}",
    crds.CrdStep.UPDATE: "now {ours}, was {found}",
    crds.CrdStep.KEEP: "is {found} already",
    crds.CrdStep.KEEP_NEWER: "left alone: {found} is newer than {ours}",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``crds install``."""
    group = commands.add_parser("crds", help="the kinds that Fleetboard brings").add_subparsers(
        required=True, metavar="COMMAND"
    )
    parser = group.add_parser("install", help="install or update them, unless newer ones are there")
    folder = _CHECKOUT if _CHECKOUT.is_dir() else _IMAGE
    parser.add_argument(
        "--from", dest="folder", default=str(folder), help="folder of YAML files (default: %(default)s)"
    )
    parser.add_argument("--kubeconfig", default="", help="kubeconfig of the cluster, when not run in a pod of it")
    parser.add_argument("--context", default="", help="context of the kubeconfig (default: its current one)")
    parser.set_defaults(run=install)


def install(options: argparse.Namespace) -> None:
    """Bring every definition up to ours.

    Raises:
        CommandError: no definitions, or one that is there can't be used.
        KubeError: the cluster's API failed.
    """
    wanted = read_folder(pathlib.Path(options.folder))
    otherwise = "no cluster to talk to: pass --kubeconfig and --context, or run this in a pod of it"
    client, _ = access.reach(options, os.environ, otherwise=otherwise)
    wait_reachable(client)
    for definition in wanted:
        sys.stdout.write(f"{definition['metadata']['name']}: {install_one(client, definition)}\n")
    for definition in wanted:
        wait_established(client, definition["metadata"]["name"])


def wait_reachable(client: Client, *, timeout_s: float = REACHABLE_S) -> None:
    """Wait until the API server answers.

    Raises:
        UnreachableError: it doesn't in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            client.read("/version")
        except errors.UnreachableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        except errors.ApiError:
            return
        else:
            return


def read_folder(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Read the definitions in ``folder``, by name.

    Raises:
        CommandError: there is none, or one can't be read.
    """
    found = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            found += [document for document in yaml.safe_load_all(path.read_text()) if document]
        except (OSError, yaml.YAMLError) as err:
            raise CommandError(f"{path} can't be read: {err}") from err
    if not found:
        raise CommandError(f"--from {str(folder)!r}: expected a folder of CustomResourceDefinitions as YAML")
    return found


def install_one(client: Client, ours: dict[str, Any]) -> str:
    """Install, update or leave one definition; return which, in words.

    Raises:
        CommandError: a newer one is there that doesn't serve what we speak.
    """
    name = ours["metadata"]["name"]
    found = client.find(resource.CRDS, name)
    step = crds.plan(ours, found.metadata.labels if found is not None else None)
    if step is crds.CrdStep.KEEP_NEWER and found is not None:
        check_served(ours, found)
    if step in (crds.CrdStep.INSTALL, crds.CrdStep.UPDATE):
        client.apply(resource.CRDS, ours, manager=FIELD_MANAGER)
    versions = {"ours": crds.read_version(ours["metadata"].get("labels", {}))}
    versions["found"] = crds.read_version(found.metadata.labels if found is not None else {})
    return _SAID[step].format(**versions)


def check_served(ours: dict[str, Any], found: core.PlainObject) -> None:
    """Refuse a newer definition that no longer serves the version we speak."""
    spoken = mcs.API_VERSION.partition("/")[2]
    if spoken in crds.served_versions(ours["spec"]) and spoken not in crds.served_versions(found.spec):
        newer = crds.read_version(found.metadata.labels)
        raise CommandError(
            f"{found.metadata.name} has version {newer}, newer than this Fleetboard's, and no longer serves {spoken}: "
            "upgrade Fleetboard"
        )


def wait_established(client: Client, name: str, *, timeout_s: float = ESTABLISHED_S) -> None:
    """Wait until the API serves a kind.

    Raises:
        CommandError: it doesn't in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            conditions = client.get(resource.CRDS, name).status.get("conditions", [])
        except errors.UnreachableError:
            conditions = []
        if any(flag.get("type") == "Established" and flag.get("status") == "True" for flag in conditions):
            return
        if time.monotonic() > deadline:
            raise CommandError(f"{name} is not served after {timeout_s:.0f} s: kubectl describe crd {name} says why")
        time.sleep(0.2)
