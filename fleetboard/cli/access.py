"""Reaches the hub for a command: by the service account in one of our pods, by a kubeconfig elsewhere.

Invariant: what the user gave decides which cluster a command changes; without it, the place where the command runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
from collections.abc import Mapping

from fleetboard.cli.errors import CommandError
from fleetboard.kube.client import Client
from fleetboard.model import membership, names, resource

_POD_CA = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
_USER_AGENT = "fleetboard-cli"


@dataclasses.dataclass(frozen=True, slots=True)
class HubAccess:
    """The hub's API and where our objects are in it."""

    client: Client
    namespace: str
    in_pod: bool

    def ca_pem(self) -> bytes:
        """Return the authority that vouches for the hub's API, as its own pods trust it.

        Raises:
            CommandError: the hub doesn't publish one.
        """
        if self.in_pod and _POD_CA.exists():
            return _POD_CA.read_bytes()
        found = self.client.find(resource.CONFIG_MAPS, membership.ROOT_CA, self.namespace)
        text = found.data.get("ca.crt", "") if found is not None else ""
        if not text:
            raise CommandError(f"ConfigMap {self.namespace}/{membership.ROOT_CA} has no ca.crt: pass --ca-file")
        return text.encode()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command about the hub has."""
    clusterset = os.environ.get("CLUSTERSET", "default")
    parser.add_argument("--clusterset", default=clusterset, help="name of the clusterset (default: %(default)s)")
    parser.add_argument("--kubeconfig", default="", help="kubeconfig of the hub, when not run in a pod of the hub")
    parser.add_argument("--context", default="", help="context of the kubeconfig (default: its current one)")


def connect(options: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> HubAccess:
    """Reach the hub.

    Raises:
        CommandError: neither in a pod nor with a kubeconfig.
        ConfigurationRefusedError: what there is can't be used.
    """
    namespace = environ.get("NAMESPACE", names.NAMESPACE)
    otherwise = (
        "no hub to talk to: run this in the hub's pod (kubectl exec deploy/syncer-hub -- fleetboard ...), "
        "or pass --kubeconfig and --context"
    )
    client, in_pod = reach(options, environ, otherwise=otherwise)
    return HubAccess(client, namespace, in_pod)


def reach(options: argparse.Namespace, environ: Mapping[str, str], *, otherwise: str) -> tuple[Client, bool]:
    """Reach a cluster, and tell whether it is the one that we run in.

    Raises:
        CommandError: with ``otherwise``, neither in a pod nor with a kubeconfig.
        ConfigurationRefusedError: what there is can't be used.
    """
    path = options.kubeconfig or ("" if "KUBERNETES_SERVICE_HOST" in environ else environ.get("KUBECONFIG", ""))
    if not path and options.context:
        path = str(pathlib.Path.home() / ".kube" / "config")
    if path:
        return Client.from_kubeconfig(path, options.context, user_agent=_USER_AGENT), False
    if "KUBERNETES_SERVICE_HOST" not in environ:
        raise CommandError(otherwise)
    return Client.in_cluster(user_agent=_USER_AGENT), True
