"""What a member may do on the hub, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetboard.model import membership, names

MEMBER = membership.Member("default", "c1")

_label = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)


def rights(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (resource, verb, ",".join(rule.get("resourceNames", [])))
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_a_member_reads_no_secret_and_changes_no_right() -> None:
    for role in (*membership.render_roles(MEMBER), membership.render_read_role("default")):
        for resource, verb, named in rights(role):
            assert "*" not in resource + verb
            assert not resource.startswith("role")
            if resource == "secrets":
                assert (verb, named) == ("delete", membership.BOOTSTRAP)


def test_the_bootstrap_account_may_ask_for_the_members_token_and_nothing_else() -> None:
    _, bootstrap = membership.render_roles(MEMBER)
    assert bootstrap["metadata"]["name"] == membership.BOOTSTRAP
    assert rights(bootstrap) == {("serviceaccounts/token", "create", "member")}


def test_a_member_only_reads_the_clustersets_namespace() -> None:
    role = membership.render_read_role("default")
    assert role["metadata"]["namespace"] == "fleetboard-default"
    assert {verb for _, verb, _ in rights(role)} == {"get", "list", "watch"}
    assert {resource for resource, _, _ in rights(role)} == {"peers", "fleetservices", "endpointslices"}


def test_every_object_of_a_member_is_in_its_namespace_but_the_right_to_read() -> None:
    rendered = [
        *membership.render_accounts(MEMBER),
        *membership.render_roles(MEMBER),
        *membership.render_bindings(MEMBER),
        membership.render_quota(MEMBER),
        membership.render_secret(MEMBER, membership.MEMBER_SECRET),
    ]
    elsewhere = [one for one in rendered if one["metadata"]["namespace"] != "fleetboard-default-c1"]
    assert [one["metadata"]["name"] for one in elsewhere] == ["fleetboard-member-read.c1"]
    for one in rendered:
        assert one["metadata"]["labels"] == {names.LABEL_CLUSTERSET: "default", names.LABEL_CLUSTER: "c1"}
        for subject in one.get("subjects", []):
            assert subject["namespace"] == "fleetboard-default-c1"


def test_every_token_is_bound_to_a_secret() -> None:
    request = membership.render_token_request("member-credential", lifetime_s=600, uid="u")
    assert request["spec"] == {
        "expirationSeconds": 600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": "member-credential", "uid": "u"},
    }


@given(_label, _label)
def test_a_namespace_leads_back_to_its_cluster(clusterset: str, cluster: str) -> None:
    expected = None if cluster == names.HUB else cluster
    assert membership.cluster_of(clusterset, names.member_namespace(clusterset, cluster)) == expected


@pytest.mark.parametrize(
    "namespace",
    ["fleetboard-default", "fleetboard-default-", "fleetboard-other-c1", "default", "fleetboard-default-hub"],
)
def test_other_namespaces_are_no_members(namespace: str) -> None:
    assert membership.cluster_of("default", namespace) is None


def test_a_clusterset_whose_namespace_is_the_parts_own_is_refused() -> None:
    with pytest.raises(names.NameRefusedError, match="'system'"):
        membership.parse_clusterset("system")


def test_the_open_bootstrap_is_read_back_from_the_peer() -> None:
    bootstrap = membership.Bootstrap("u", "2026-01-01T00:00:00Z", "2026-01-01T00:10:00Z")
    assert membership.Bootstrap.parse(bootstrap.render()) == bootstrap
    assert membership.Bootstrap.parse("") is None
    peer = membership.render_peer(MEMBER, export_namespaces=["*"], bootstrap=bootstrap)
    assert peer["metadata"]["annotations"] == {membership.ANNOTATION_BOOTSTRAP: bootstrap.render()}
