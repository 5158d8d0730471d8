"""What the charts' admission policies repeat of the code."""

from __future__ import annotations

import pathlib
import re

from fleetboard.model import membership, names

CHARTS = pathlib.Path(__file__).parents[3] / "manifests/charts"
PROTECT = (CHARTS / "fleetboard-agent/templates/protect.yaml").read_text()
TOKENS = (CHARTS / "fleetboard/templates/member-tokens.yaml").read_text()


def test_a_member_may_ask_for_just_the_token_that_its_syncer_asks_for() -> None:
    (cap,) = re.findall(r"expirationSeconds.orValue\(3600\) <= (\d+)", TOKENS)
    assert int(cap) == membership.MEMBER_TOKEN_S
    assert f"request.name == '{membership.MEMBER}' ? '{membership.MEMBER_SECRET}'" in TOKENS
    assert membership.BOOTSTRAP == "bootstrap", "its account and its Secret have one name"


def test_the_policies_know_our_accounts_labels_and_annotations() -> None:
    accounts = re.findall(r"system:serviceaccount:%s:([a-z-]+)", PROTECT)
    for account in accounts:
        templates = (CHARTS / "fleetboard-agent/templates").glob("*.yaml")
        assert any(f"kind: ServiceAccount\nmetadata:\n  name: {account}\n" in path.read_text() for path in templates)
    assert accounts == ["syncer", "fleetboard-uninstall"]
    assert f"{names.LABEL_MANAGED_BY}: {names.MANAGED_BY}" in PROTECT
    assert f"key: {names.LABEL_CLUSTERSET}, operator: DoesNotExist" in PROTECT
    assert f"'{names.ANNOTATION_IMPORT_OWNER}'" in PROTECT


def test_an_import_may_be_applied_again_without_addresses_and_with_none_but_its_own() -> None:
    (expression,) = re.findall(r'expression: "(.*)"\n    message: spec.ips', PROTECT)
    given = "object.spec.?ips.orValue([])"
    assert expression == f"size({given}) == 0 || {given} == variables.before"


def test_hooks_have_time_to_pull_their_image_and_end_before_helm_does() -> None:
    templates = [path.read_text() for path in CHARTS.glob("*/templates/*.yaml")]
    deadlines = [int(found) for text in templates for found in re.findall(r"activeDeadlineSeconds: (\d+)", text)]
    assert deadlines == [280, 280, 280]
