"""``fleetboard crds install``: a cluster's definitions are raised to ours, and never lowered."""

from __future__ import annotations

import hashlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import fake_api
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fleetboard.cli import crds as command
from fleetboard.cli import main
from fleetboard.cli.errors import CommandError
from fleetboard.kube import errors
from fleetboard.kube.client import Client
from fleetboard.model import crds

CRDS = pathlib.Path(__file__).parents[4] / "manifests/crds"
COLLECTION = "customresourcedefinitions"
IMPORTS = "serviceimports.multicluster.x-k8s.io"
PEERS = "peers.fleetboard.io"
RELEASE, REVISION = "multicluster.x-k8s.io/release-version", "multicluster.x-k8s.io/crd-schema-revision"


def load(name: str) -> dict[str, Any]:
    return next(one for one in command.read_folder(CRDS) if one["metadata"]["name"] == name)


def test_those_of_mcs_api_are_upstreams_letter_for_letter() -> None:
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in CRDS.glob("multicluster.x-k8s.io_*")
    }
    # Of sigs.k8s.io/mcs-api v0.5.2, config/crd.
    assert digests == {
        "multicluster.x-k8s.io_serviceexports.yaml": "3aff015c50f793fe",
        "multicluster.x-k8s.io_serviceimports.yaml": "648c8b9c0cd33a7e",
    }


@pytest.mark.parametrize("kind", ["serviceexports", "serviceimports"])
def test_both_versions_are_served_and_the_newer_is_stored(kind: str) -> None:
    crd = load(f"{kind}.multicluster.x-k8s.io")
    shown = {one["name"]: (one["served"], one["storage"]) for one in crd["spec"]["versions"]}
    assert shown == {"v1alpha1": (True, False), "v1beta1": (True, True)}
    assert crd["metadata"]["labels"] == {RELEASE: "v0.5.2", REVISION: "0"}


def test_each_of_our_definitions_has_a_revision() -> None:
    own = [one for one in command.read_folder(CRDS) if one["spec"]["group"] == "fleetboard.io"]
    assert own
    assert all(crds.read_version(one["metadata"]["labels"]).revision >= 1 for one in own)


def versioned(release: str, revision: str = "0") -> crds.Version:
    return crds.read_version({RELEASE: release, REVISION: revision})


def test_versions_are_compared_by_number_and_a_candidate_comes_before_its_release() -> None:
    ordered = [
        crds.read_version({}),
        versioned("v0.4.1", "7"),
        versioned("v0.5.0"),
        versioned("v0.5.0", "1"),
        versioned("v0.5.0", "10"),
        versioned("v0.6.0-rc.1"),
        versioned("v0.6.0"),
        versioned("v0.10.0"),
    ]
    assert ordered == sorted(ordered)
    assert len(set(ordered)) == len(ordered)


@given(st.dictionaries(st.sampled_from([RELEASE, REVISION, crds.LABEL_REVISION]), st.text(max_size=12)))
def test_labels_of_any_text_are_read_as_some_version(labels: dict[str, str]) -> None:
    version = crds.read_version(labels)
    assert (version < versioned("v0.0.1")) or any(version.release)
    assert str(version)


@pytest.mark.parametrize(
    ("name", "labels", "step"),
    [
        (IMPORTS, None, crds.CrdStep.INSTALL),
        (IMPORTS, {}, crds.CrdStep.UPDATE),
        (IMPORTS, {RELEASE: "v0.5.0", REVISION: "9"}, crds.CrdStep.UPDATE),
        (IMPORTS, {RELEASE: "v0.5.2", REVISION: "0"}, crds.CrdStep.KEEP),
        (IMPORTS, {RELEASE: "v0.5.2", REVISION: "1"}, crds.CrdStep.KEEP_NEWER),
        (IMPORTS, {RELEASE: "v1.0.0"}, crds.CrdStep.KEEP_NEWER),
        (PEERS, {}, crds.CrdStep.UPDATE),
        (PEERS, {crds.LABEL_REVISION: "0"}, crds.CrdStep.UPDATE),
        (PEERS, load(PEERS)["metadata"]["labels"], crds.CrdStep.UPDATE),
        (PEERS, {crds.LABEL_REVISION: "1000"}, crds.CrdStep.KEEP_NEWER),
    ],
)
def test_only_what_is_older_is_exchanged(name: str, labels: dict[str, str] | None, step: crds.CrdStep) -> None:
    assert crds.plan(load(name), labels) is step


@pytest.fixture
def api() -> Iterator[fake_api.FakeApi]:
    with fake_api.FakeApi() as running:
        yield running


def there(api: fake_api.FakeApi, name: str, labels: dict[str, str], *, served: str = "v1alpha1") -> None:
    api.put(
        COLLECTION,
        name,
        namespace="",
        spec={"versions": [{"name": served, "served": True}]},
        status={"conditions": [{"type": "Established", "status": "True"}]},
    )
    api.objects[COLLECTION, "", name]["metadata"]["labels"] = labels


def test_the_folder_is_carried_out_and_said(api: fake_api.FakeApi) -> None:
    ours = command.read_folder(CRDS)
    there(api, IMPORTS, {RELEASE: "v99.0.0"})
    there(api, PEERS, {})
    client = api.client()
    said = {one["metadata"]["name"]: command.install_one(client, one) for one in ours}
    assert said[IMPORTS] == "left alone: v99.0.0 revision 0 is newer than v0.5.2 revision 0"
    assert said[PEERS] == "now revision 2, was one without a version"
    assert said["claims.fleetboard.io"] == "installed revision 1"
    written = {request.path.rpartition("/")[2] for request in api.requests if request.method == "PATCH"}
    assert written == {one["metadata"]["name"] for one in ours} - {IMPORTS}
    assert api.objects[COLLECTION, "", IMPORTS]["metadata"]["labels"] == {RELEASE: "v99.0.0"}


def test_a_newer_one_without_our_version_is_reported(api: fake_api.FakeApi) -> None:
    there(api, IMPORTS, {RELEASE: "v99.0.0"}, served="v1")
    with pytest.raises(CommandError, match=r"v99\.0\.0 .* no longer serves v1alpha1: upgrade Fleetboard"):
        command.install_one(api.client(), load(IMPORTS))


def test_a_kind_that_is_never_served_is_reported(api: fake_api.FakeApi) -> None:
    there(api, IMPORTS, {})
    command.wait_established(api.client(), IMPORTS)
    api.objects[COLLECTION, "", IMPORTS]["status"] = {}
    with pytest.raises(CommandError, match="is not served after 0 s: kubectl describe crd"):
        command.wait_established(api.client(), IMPORTS, timeout_s=0.3)


def test_the_whole_command_runs_by_a_kubeconfig(
    api: fake_api.FakeApi, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(CRDS / "multicluster.x-k8s.io_serviceimports.yaml", tmp_path)
    there(api, IMPORTS, {RELEASE: "v0.5.0", REVISION: "0"})
    config = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": api.url}}],
        "users": [{"name": "x", "user": {"token": "t"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    arguments = ["crds", "install", "--from", str(tmp_path), "--kubeconfig", str(tmp_path / "config")]
    assert main.main(arguments) == 0
    assert capsys.readouterr().out == f"{IMPORTS}: now v0.5.2 revision 0, was v0.5.0 revision 0\n"


def test_a_folder_without_definitions_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CommandError, match="expected a folder of CustomResourceDefinitions"):
        command.read_folder(tmp_path)


def test_an_api_server_that_is_away_is_waited_for(api: fake_api.FakeApi) -> None:
    client = api.client()
    api.fail(200, body=b"{}", path="/version")
    command.wait_reachable(client)
    nobody = Client.from_token("http://127.0.0.1:9", ca_pem=b"", token=lambda: "t", user_agent="test/1")
    with pytest.raises(errors.UnreachableError):
        command.wait_reachable(nobody, timeout_s=0.1)
