"""What a member of the clusterset has on the hub: its namespace, its rights and its two accounts.

Invariant: a member can write only in its own namespace and read only the clusterset's. A member's rights are rendered
here; the hub's chart repeats the read Role (``clusterset.yaml``) and limits token requests (``member-tokens.yaml``). A
review of trust reads these three (docs/design.md section 8).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from fleetboard.model import fleet, names

Manifest = dict[str, Any]

MEMBER = "member"
"""ServiceAccount that the member's syncer uses, and its Role in the member's namespace."""
MEMBER_SECRET = "member-credential"  # noqa: S105 - the name of an object
"""The Secret that every member token is bound to: deleting it revokes them."""
BOOTSTRAP = "bootstrap"
"""ServiceAccount whose only right is a token for the member's account; and the Secret that its token is bound to."""
READ_ROLE = "fleetboard-member-read"
"""Role in the clusterset's namespace."""
QUOTA = "member"
ROOT_CA = "kube-root-ca.crt"
"""ConfigMap that Kubernetes keeps in every namespace, from which a member reads the hub's CA."""

ANNOTATION_BOOTSTRAP = "fleetboard.io/bootstrap"
"""On a Peer: its open bootstrap Secret (see ``Bootstrap``), so that nothing needs the right to read Secrets."""

MEMBER_TOKEN_S = 30 * 24 * 3600
BOOTSTRAP_TOKEN_S = 600

_ALL_VERBS = ["get", "list", "watch", "create", "update", "patch", "delete"]
_READ_VERBS = ["get", "list", "watch"]
_RBAC = "rbac.authorization.k8s.io"

OBJECT_QUOTA = {
    # Twice the need of 500 services of 20 endpoints in both families; no member can fill the hub's etcd.
    "count/endpointslices.discovery.k8s.io": "4000",
    f"count/exportedservices.{names.GROUP}": "2000",
    f"count/peerreports.{names.GROUP}": "1",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A member of a clusterset, by names that were parsed."""

    clusterset: str
    cluster: str

    @property
    def namespace(self) -> str:
        """The hub's namespace that this member alone writes."""
        return names.member_namespace(self.clusterset, self.cluster)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of everything that belongs to this member."""
        return {names.LABEL_CLUSTERSET: self.clusterset, names.LABEL_CLUSTER: self.cluster}

    @property
    def token_path(self) -> str:
        """Where the API gives tokens for the member's account."""
        return token_path(self.namespace, MEMBER)


@dataclasses.dataclass(frozen=True, slots=True)
class Bootstrap:
    """The open bootstrap Secret of a member, as in the Peer's annotation. Times are RFC 3339."""

    uid: str
    created: str
    expires: str

    def render(self) -> str:
        """Return the annotation's value."""
        return f"{self.uid} {self.created} {self.expires}"

    @classmethod
    def parse(cls, text: str) -> Bootstrap | None:
        """Parse the annotation's value; return None when no bootstrap is open."""
        parts = text.split(" ")
        return cls(*parts) if len(parts) == 3 else None


def parse_clusterset(value: str) -> str:
    """Return ``value`` when it may name a clusterset whose namespace is not the parts' own.

    Raises:
        NameRefusedError: not a short DNS label, or its namespace would be the one the parts run in.
    """
    clusterset = names.parse_clusterset_name(value)
    if names.clusterset_namespace(clusterset) == names.NAMESPACE:
        raise names.NameRefusedError(
            f"clusterset name {value!r} is not usable: its namespace {names.NAMESPACE!r} is where the parts run"
        )
    return clusterset


def cluster_of(clusterset: str, namespace: str) -> str | None:
    """Return the cluster that writes ``namespace``, or None when that is not a member's in this clusterset."""
    prefix = names.member_namespace(clusterset, "")
    cluster = namespace.removeprefix(prefix)
    if cluster == namespace or cluster == names.HUB:
        return None
    try:
        return names.parse_cluster_name(cluster)
    except names.NameRefusedError:
        return None


def token_path(namespace: str, account: str) -> str:
    """Return the path of an account's token subresource."""
    return f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"


def render_token_request(secret: str, *, lifetime_s: int, uid: str = "") -> Manifest:
    """Render a request for a token that ends with ``secret``, in the account's namespace."""
    bound = {"apiVersion": "v1", "kind": "Secret", "name": secret} | ({"uid": uid} if uid else {})
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": lifetime_s, "boundObjectRef": bound},
    }


def render_namespace(name: str, labels: dict[str, str]) -> Manifest:
    """Render a namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def render_secret(member: Member, name: str) -> Manifest:
    """Render an empty Secret; to delete it ends the tokens that are bound to it."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": _metadata(member, name), "type": "Opaque"}


def render_accounts(member: Member) -> list[Manifest]:
    """Render the member's ServiceAccounts; no pod uses them, so none mounts their tokens."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": _metadata(member, account),
            "automountServiceAccountToken": False,
        }
        for account in (MEMBER, BOOTSTRAP)
    ]


def render_roles(member: Member) -> list[Manifest]:
    """Render the Roles in the member's namespace."""
    own_token = {
        "apiGroups": [""],
        "resources": ["serviceaccounts/token"],
        "resourceNames": [MEMBER],
        "verbs": ["create"],
    }
    member_rules = [
        {"apiGroups": [names.GROUP], "resources": ["peerreports", "exportedservices"], "verbs": _ALL_VERBS},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _ALL_VERBS},
        own_token,
        # The member deletes the bootstrap token it has just used, and has no other right to Secrets.
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [BOOTSTRAP], "verbs": ["delete"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [ROOT_CA], "verbs": ["get"]},
    ]
    return [_role(_metadata(member, MEMBER), member_rules), _role(_metadata(member, BOOTSTRAP), [own_token])]


def render_read_role(clusterset: str) -> Manifest:
    """Render the Role with which every member reads the clusterset's namespace."""
    metadata = {
        "name": READ_ROLE,
        "namespace": names.clusterset_namespace(clusterset),
        "labels": {names.LABEL_CLUSTERSET: clusterset},
    }
    rules = [
        {"apiGroups": [names.GROUP], "resources": ["peers", "fleetservices"], "verbs": _READ_VERBS},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _READ_VERBS},
    ]
    return _role(metadata, rules)


def render_bindings(member: Member) -> list[Manifest]:
    """Render the RoleBindings: two in the member's namespace, one in the clusterset's."""
    read = _metadata(member, f"{READ_ROLE}.{member.cluster}") | {
        "namespace": names.clusterset_namespace(member.clusterset)
    }
    return [
        _binding(_metadata(member, MEMBER), role=MEMBER, account=MEMBER, member=member),
        _binding(_metadata(member, BOOTSTRAP), role=BOOTSTRAP, account=BOOTSTRAP, member=member),
        _binding(read, role=READ_ROLE, account=MEMBER, member=member),
    ]


def render_quota(member: Member) -> Manifest:
    """Render the limit on how many objects the member may keep on the hub."""
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": _metadata(member, QUOTA),
        "spec": {"hard": OBJECT_QUOTA},
    }


def render_peer(member: Member, *, export_namespaces: list[str], bootstrap: Bootstrap) -> Manifest:
    """Render the Peer as ``fleetboard token create`` applies it."""
    return {
        "apiVersion": fleet.API_VERSION,
        "kind": "Peer",
        "metadata": {
            "name": member.cluster,
            "namespace": names.clusterset_namespace(member.clusterset),
            "labels": member.labels,
            "annotations": {ANNOTATION_BOOTSTRAP: bootstrap.render()},
        },
        "spec": {"cluster": member.cluster, "exportNamespaces": export_namespaces},
    }


def _metadata(member: Member, name: str) -> Manifest:
    return {"name": name, "namespace": member.namespace, "labels": member.labels}


def _role(metadata: Manifest, rules: list[Manifest]) -> Manifest:
    return {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": rules}


def _binding(metadata: Manifest, *, role: str, account: str, member: Member) -> Manifest:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": member.namespace}],
    }
