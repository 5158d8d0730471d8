"""What joining reads and stores: the chart's Secret ``hub-join`` and the syncer's own Secret ``hub-credential``.

Invariant: a credential names the server and the namespace that it is for, and is never sent anywhere else.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import urllib.parse
from typing import Any

from cryptography import x509

from fleetboard.model import core, membership, names
from syncer.member.join.errors import JoinSettingsError

JOIN_SECRET = "hub-join"  # noqa: S105 - the name of an object
CREDENTIAL_SECRET = "hub-credential"  # noqa: S105 - the name of an object


@dataclasses.dataclass(frozen=True, slots=True)
class HubJoin:
    """How to reach the hub, and as which member, as the agent's chart wrote it."""

    server: str
    ca_pem: bytes
    token: str = dataclasses.field(repr=False)
    member: membership.Member

    @property
    def cluster(self) -> str:
        """The name of this cluster in the clusterset."""
        return self.member.cluster

    @property
    def clusterset(self) -> str:
        """The clusterset that this cluster is a member of."""
        return self.member.clusterset


@dataclasses.dataclass(frozen=True, slots=True)
class StoredCredential:
    """The member's token and the hub's CA as stored in this cluster. Times are seconds since the epoch."""

    server: str
    namespace: str
    ca_pem: bytes
    token: str = dataclasses.field(repr=False)
    issued: float
    expires: float

    def is_for(self, join: HubJoin) -> bool:
        """Return whether this credential may be sent to the hub that ``join`` names."""
        return self.server == join.server and self.namespace == join.member.namespace


def parse_join(secret: core.Secret | None) -> HubJoin:
    """Read the chart's Secret.

    Raises:
        JoinSettingsError: a field is missing or can't be used.
    """
    if secret is None:
        raise JoinSettingsError(f"Secret {JOIN_SECRET!r} is missing: set the chart's values hub.server, hub.token, ...")
    fields = {field: _text(secret, field) for field in ("server", "ca.crt", "token", "cluster", "clusterset")}
    try:
        clusterset = membership.parse_clusterset(fields["clusterset"])
        member = membership.Member(clusterset, names.parse_cluster_name(fields["cluster"]))
    except names.NameRefusedError as err:
        raise JoinSettingsError(str(err)) from err
    ca_pem = fields["ca.crt"].encode()
    if not is_ca_bundle(ca_pem):
        raise JoinSettingsError("hub.caData holds no certificate: expected PEM certificates in base64")
    return HubJoin(parse_server(fields["server"]), ca_pem, fields["token"].strip(), member)


def parse_server(server: str) -> str:
    """Return the URL of the hub's API without a trailing slash.

    Raises:
        JoinSettingsError: not an https URL with a host.
    """
    text = server.strip().rstrip("/")
    try:
        url = urllib.parse.urlsplit(text)
        usable = url.scheme == "https" and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise JoinSettingsError(f"hub.server {server!r} is not a URL of an API server: expected https://host:port")
    return text


def is_ca_bundle(pem: bytes) -> bool:
    """Return whether ``pem`` holds at least one certificate and nothing malformed."""
    try:
        return bool(x509.load_pem_x509_certificates(pem))
    except ValueError:
        return False


def parse_credential(secret: core.Secret | None) -> StoredCredential | None:
    """Read the stored credential; one that can't be read counts as missing, because joining writes it again."""
    if secret is None:
        return None
    try:
        fields = {key: base64.b64decode(value, validate=True) for key, value in secret.data.items()}
        return StoredCredential(
            server=fields["server"].decode(),
            namespace=fields["namespace"].decode(),
            ca_pem=fields["ca.crt"],
            token=fields["token"].decode(),
            issued=float(fields["issued"]),
            expires=float(fields["expires"]),
        )
    except (binascii.Error, KeyError, ValueError):
        return None


def render_credential(stored: StoredCredential, *, namespace: str) -> dict[str, Any]:
    """Render the Secret that stores the credential in this cluster."""
    fields = {
        "server": stored.server.encode(),
        "namespace": stored.namespace.encode(),
        "ca.crt": stored.ca_pem,
        "token": stored.token.encode(),
        "issued": str(int(stored.issued)).encode(),
        "expires": str(int(stored.expires)).encode(),
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": CREDENTIAL_SECRET,
            "namespace": namespace,
            "labels": {names.LABEL_APP: "syncer"},
        },
        "type": "Opaque",
        "data": {key: base64.b64encode(value).decode() for key, value in fields.items()},
    }


def _text(secret: core.Secret, field: str) -> str:
    encoded = secret.data.get(field, "")
    if not encoded:
        raise JoinSettingsError(f"Secret {JOIN_SECRET!r} has no {field!r}: run `fleetboard token create` on the hub")
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as err:
        raise JoinSettingsError(f"Secret {JOIN_SECRET!r} field {field!r} is not base64 text: {err}") from err
