"""Parses what a user typed, before anything is asked of a cluster.

Invariant: every function here is pure and refuses a value with a sentence that names the option.
"""

from __future__ import annotations

import base64
import re
import urllib.parse
from typing import Any

import yaml

from fleetboard.cli.errors import CommandError
from fleetboard.model import membership, names

MAX_TOKEN_S = 24 * 3600

_DURATION = re.compile(r"(\d{1,6})(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def parse_member(clusterset: str, cluster: str) -> membership.Member:
    """Parse --clusterset and --cluster.

    Raises:
        CommandError: a name can't be used.
    """
    try:
        return membership.Member(membership.parse_clusterset(clusterset), names.parse_cluster_name(cluster))
    except names.NameRefusedError as err:
        raise CommandError(str(err)) from err


def parse_ttl(text: str) -> int:
    """Parse --ttl into seconds; the API issues no token for less than ten minutes.

    Raises:
        CommandError: not a duration, or out of bounds.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not membership.BOOTSTRAP_TOKEN_S <= seconds <= MAX_TOKEN_S:
        raise CommandError(f"--ttl {text!r} is not a duration between 10m and 24h, such as 10m, 90m or 2h")
    return seconds


def parse_export_namespaces(text: str | None) -> list[str] | None:
    """Parse --export-namespaces; None when it wasn't given, ``*`` for all.

    Raises:
        CommandError: an entry is no namespace.
    """
    if text is None:
        return None
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    for entry in entries:
        if entry != "*" and not _NAMESPACE.fullmatch(entry):
            raise CommandError(f"--export-namespaces: {entry!r} is not the name of a namespace, nor '*' for all")
    return ["*"] if "*" in entries else sorted(set(entries))


def parse_server(text: str) -> str:
    """Parse --server, the URL at which members reach the hub's API.

    Raises:
        CommandError: missing or not an https URL.
    """
    server = text.strip().rstrip("/")
    if not server:
        raise CommandError(
            "the hub's URL is not known: set api.server in the hub's chart, or pass --server https://..."
        )
    try:
        url = urllib.parse.urlsplit(server)
        usable = url.scheme == "https" and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise CommandError(f"--server {text!r} is not a URL of an API server: expected https://host:port")
    return server


def render_values(member: membership.Member, *, server: str, ca_pem: bytes, token: str) -> str:
    """Render the values for the agent's chart, as YAML."""
    hub: dict[str, Any] = {
        "server": server,
        "caData": base64.b64encode(ca_pem).decode(),
        "token": token,
        "cluster": member.cluster,
        "clusterset": member.clusterset,
    }
    return yaml.safe_dump({"hub": hub}, sort_keys=False, width=1 << 20)
