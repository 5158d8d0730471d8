"""What a user types and what the command prints."""

from __future__ import annotations

import base64

import pytest
import yaml
from hub_objects import make_peer

from fleetboard.cli import cluster, main, settings
from fleetboard.cli.errors import CommandError
from fleetboard.model import membership


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("600s", 600), ("2h", 7200), (" 90m ", 5400)])
def test_a_duration_is_read(text: str, seconds: int) -> None:
    assert settings.parse_ttl(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "9m", "25h", "-1h", "1d", "10m30s"])
def test_a_duration_that_no_token_can_have_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="--ttl"):
        settings.parse_ttl(text)


def test_export_namespaces_are_read() -> None:
    assert settings.parse_export_namespaces(None) is None
    assert settings.parse_export_namespaces("shop, default,shop") == ["default", "shop"]
    assert settings.parse_export_namespaces("shop,*") == ["*"]
    assert settings.parse_export_namespaces("") == []


@pytest.mark.parametrize("text", ["Shop", "a.b", "a/b", "sh*"])
def test_an_export_namespace_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="--export-namespaces"):
        settings.parse_export_namespaces(text)


@pytest.mark.parametrize("text", ["", "http://hub:6443", "hub:6443", "https://", "https://hub:0", "https://hub:x"])
def test_a_server_that_no_child_can_use_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="https://"):
        settings.parse_server(text)


def test_the_values_are_what_the_agents_chart_reads() -> None:
    member = membership.Member("default", "c1")
    text = settings.render_values(member, server="https://hub:6443", ca_pem=b"PEM\n", token="t")
    assert yaml.safe_load(text) == {
        "hub": {
            "server": "https://hub:6443",
            "caData": base64.b64encode(b"PEM\n").decode(),
            "token": "t",
            "cluster": "c1",
            "clusterset": "default",
        }
    }


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["token", "create", "--cluster", "C1", "--server", "https://hub"], "'C1'"),
        (["token", "create", "--cluster", "hub", "--server", "https://hub"], "the hub's own"),
        (["token", "create", "--cluster", "c1", "--server", "hub"], "--server"),
        (["token", "create", "--cluster", "c1", "--server", "https://hub", "--ttl", "1m"], "--ttl"),
        (["token", "create", "--cluster", "c1", "--server", "https://hub", "--clusterset", "system"], "'system'"),
        (["cluster", "remove", "c_1"], "'c_1'"),
        (["cluster", "list", "--clusterset", "A"], "'A'"),
        (["cluster", "list", "--kubeconfig", "/nonexistent/kubeconfig"], "/nonexistent/kubeconfig"),
    ],
)
def test_a_wrong_value_ends_with_one_sentence_and_status_1(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert part in printed.err
    assert printed.err.count("\n") == 1


def test_outside_a_cluster_the_command_says_where_to_run_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KUBERNETES_SERVICE_HOST", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    assert main.main(["cluster", "list"]) == 1
    assert "kubectl exec deploy/syncer-hub" in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["version"]) == 0
    assert capsys.readouterr().out.startswith("fleetboard ")


def test_a_members_line_says_what_is_wrong() -> None:
    assert cluster.describe(make_peer(admitted=True, blocks=["10.113.4.0/22", "10.113.16.0/21"])) == (
        "c1",
        "True",
        "-",
        "Unknown",
        "10.113.4.0/22,10.113.16.0/21",
        "",
    )


def test_columns_are_aligned() -> None:
    assert cluster.render_table([("A", "B"), ("long", "x")]) == "A     B\nlong  x\n"
