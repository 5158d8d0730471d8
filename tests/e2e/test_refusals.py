"""Wrong values give one clear sentence, in the log, the condition and the exit status, and harm no other cluster."""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import lab
import observer
import pytest
import trial

NAMESPACE = "e2e-refusals"
PORT = 8080
HUB_CHART = str(trial.ROOT / "manifests/charts/fleetboard")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One way to be wrong.

    Attributes:
        member: Name to ask the hub's token for; empty where the user never asked.
        hub: What is changed in the chart's ``hub`` values.
        cidrs: ``network.cidrs``.
        spoil: What is changed behind the schema's back.
        reason: Reason of the Joined condition.
        words: What the sentence must name: the field or the thing, its value, and what to do.
    """

    member: str = ""
    hub: dict[str, str] = dataclasses.field(default_factory=dict)
    cidrs: tuple[str, ...] = ()
    spoil: Callable[[dict[str, Any]], None] = lambda _: None
    reason: str
    words: tuple[str, ...]


def rename(item: dict[str, Any]) -> None:
    """Give the cluster a name that is no DNS label."""
    if item["kind"] == "Secret":
        item["data"]["cluster"] = base64.b64encode(b"Bad_Name").decode()


def malform(item: dict[str, Any]) -> None:
    """Give the syncer a network with host bits, which the schema can't refuse."""
    if item["kind"] == "Deployment":
        (container,) = item["spec"]["template"]["spec"]["containers"]
        next(one for one in container["env"] if one["name"] == "NETWORK_CIDRS")["value"] = "10.1.2.3/16"


NOBODY = "https://192.0.2.1:6443"
CASES = {
    "overlap": Case(
        member="trial-overlap",
        cidrs=("10.112.5.0/24",),
        reason="CIDROverlap",
        words=("10.112.5.0/24", "overlap the fleet CIDR 10.112.0.0/12"),
    ),
    "malformed": Case(
        member="trial-malformed",
        spoil=malform,
        reason="SettingsRefused",
        words=("NETWORK_CIDRS", "'10.1.2.3/16'", "expected CIDRs such as 10.0.0.0/16"),
    ),
    "name": Case(
        member="trial-name", spoil=rename, reason="SettingsRefused", words=("'Bad_Name'", "expected", "lower-case")
    ),
    "token": Case(
        hub={"cluster": "trial-token", "token": "not-a-token"},
        reason="TokenRefused",
        words=("refused the token of cluster 'trial-token'", "fleetboard token create --cluster trial-token"),
    ),
    "stolen": Case(
        member="trial-stolen",
        hub={"cluster": "c2"},
        reason="ClusterRefused",
        words=("is not one of cluster 'c2'", "hub.cluster and hub.clusterset must be"),
    ),
    "away": Case(
        member="trial-away", hub={"server": NOBODY}, reason="HubUnreachable", words=(NOBODY, "can't be reached")
    ),
    "certificate": Case(
        member="trial-certificate",
        hub={"caData": "c1"},
        reason="HubCertificateRefused",
        words=("the certificate of the hub", "does not match hub.caData"),
    ),
    "taken": Case(
        member="c1",
        reason="ClusterNameTaken",
        words=("cluster name 'c1' is taken", "fleetboard cluster remove c1"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Trials:
    """All trials, started together, and what a client in c2 and the hub see of c1 meanwhile."""

    began: float
    watcher: lab.Pod
    before: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def trials(namespaces: Callable[[str], str]) -> Iterator[Trials]:
    namespaces(NAMESPACE)
    lab.C1.apply(
        lab.make_deployment("web", NAMESPACE, command=observer.serve(PORT), probe_port=PORT, cpu=lab.MEASURED),
        lab.make_service("web", NAMESPACE, ("tcp", "TCP", PORT, PORT)),
        lab.make_export("web", NAMESPACE),
    )
    lab.C2.apply(observer.make("observer", NAMESPACE, host=lab.dns_name("web", NAMESPACE), port=PORT))
    (watcher,) = lab.C2.wait_pods(NAMESPACE, "observer", 1)
    observer.settle(watcher, since=time.time(), within_s=60, holds=lambda sample: sample.outcome == "served")
    before, began = members(), time.time()
    try:
        with concurrent.futures.ThreadPoolExecutor(2) as workers:
            rendered = list(workers.map(render, CASES.items()))
        trial.PLACE.apply(*itertools.chain(*rendered))
        yield Trials(began, watcher, before)
    finally:
        trial.clear(*(f"e2e-trial-{name}" for name in CASES))
        for member in known():
            hub_command("cluster", "remove", member)
        lab.HUB.delete("secret", "bootstrap", "fleetboard-default-c1")


def render(named: tuple[str, Case]) -> list[dict[str, Any]]:
    name, case = named
    return trial.render(f"e2e-trial-{name}", values_of(case), case.spoil)


def values_of(case: Case) -> dict[str, Any]:
    anything = {"clusterset": "default", **hub_values()}
    hub = trial.create_token(case.member) if case.member else anything
    changes = dict(case.hub)
    if "caData" in changes:
        changes["caData"] = authority(lab.C1)
    return {"hub": hub | changes, "network": {"cidrs": list(case.cidrs)}}


def hub_values() -> dict[str, str]:
    """Return the hub's address and authority as c2 was given them."""
    values = json.loads(lab.C2.helm("-n", lab.SYSTEM, "get", "values", "fleetboard-agent", "-o", "json"))["hub"]
    return {"server": values["server"], "caData": values["caData"]}


def authority(cluster: lab.Cluster) -> str:
    """Return the certificate authority of a cluster, base64 of PEM."""
    view = lab.run("kubectl", "config", "view", "--raw", "--minify", f"--context={cluster.context}", "-o=json")
    return str(json.loads(view)["clusters"][0]["cluster"]["certificate-authority-data"])


def hub_command(*arguments: str) -> str:
    return lab.HUB.kubectl("-n", lab.SYSTEM, "exec", "deploy/syncer-hub", "--", "fleetboard", *arguments)


def known() -> set[str]:
    """Return the names of the trial members that the hub has."""
    peers = lab.HUB.list("peers.fleetboard.io", "fleetboard-default")
    return {peer["metadata"]["name"] for peer in peers if peer["metadata"]["name"].startswith("trial-")}


def members() -> dict[str, dict[str, Any]]:
    """Return what the hub holds of the two real members: their blocks, their conditions and whose they are."""
    found = {}
    for peer in lab.HUB.list("peers.fleetboard.io", "fleetboard-default"):
        if peer["metadata"]["name"] in ("c1", "c2"):
            status = peer["status"]
            shown = {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}
            kept = {key: status[key] for key in ("clusterUid", "clusterCidrs")}
            found[peer["metadata"]["name"]] = {"spec": peer["spec"], "conditions": shown, **kept}
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_value_ends_with_one_sentence_in_log_condition_and_exit_status(trials: Trials, name: str) -> None:
    case = CASES[name]
    ending = trial.finish(f"e2e-trial-{name}")
    lab.record(f"refused: {case.reason}, seconds until the process ended", ending.seconds)
    assert (ending.status, ending.level) == (1, "error")
    assert (ending.condition["status"], ending.condition["reason"]) == ("False", case.reason)
    assert ending.condition["message"] == ending.sentence
    for words in case.words:
        assert words in ending.sentence
    assert "Traceback" not in ending.sentence
    assert "\n" not in ending.sentence


def test_no_wrong_value_harms_another_cluster(trials: Trials) -> None:
    for name in CASES:
        trial.finish(f"e2e-trial-{name}")
    assert members() == trials.before
    for cluster in (lab.C1, lab.C2):
        shown = cluster.get("peerreport", cluster.name, lab.SYSTEM)["status"]["conditions"]
        assert {one["status"] for one in shown if one["type"] == "Joined"} == {"True"}
    seen = observer.samples(trials.watcher, since=trials.began)
    assert len(seen) > 20
    assert observer.noticed(seen) == []


def test_a_refused_cluster_has_no_addresses_and_no_exports_at_the_hub(trials: Trials) -> None:
    trial.finish("e2e-trial-overlap")
    peer = lab.HUB.get("peers.fleetboard.io", "trial-overlap", "fleetboard-default")
    (admitted,) = (one for one in peer["status"]["conditions"] if one["type"] == "Admitted")
    assert (admitted["status"], admitted["reason"]) == ("False", "CIDROverlap")
    assert not peer["status"].get("clusterCidrs")
    assert "trial-overlap" in hub_command("cluster", "list")


@pytest.mark.parametrize(
    ("chart", "change", "words"),
    [
        (trial.CHART, {"network": {"cidrs": ["10.0.0.0/33"]}}, ("/network/cidrs/0", "10.0.0.0/33")),
        (trial.CHART, {"hub": {"cluster": "Bad_Name"}}, ("/hub/cluster", "Bad_Name")),
        (trial.CHART, {"hub": {"server": "http://hub"}}, ("/hub/server", "http://hub")),
        (trial.CHART, {"hub": {"token": ""}}, ("/hub/token",)),
        (HUB_CHART, {"fleetCIDR": "10.112.0.0"}, ("/fleetCIDR", "10.112.0.0")),
        (HUB_CHART, {"clusterset": "No_Label"}, ("/clusterset", "No_Label")),
    ],
)
def test_helm_refuses_what_the_schema_can_tell(chart: str, change: dict[str, Any], words: tuple[str, ...]) -> None:
    hub = {"server": NOBODY, "caData": "QQ==", "token": "t", "cluster": "c9", "clusterset": "default"}
    right: dict[str, Any] = {"hub": hub}
    if chart == HUB_CHART:
        right = {"api": {"server": NOBODY}, "tunnel": {"endpoints": ["192.0.2.1:31820"]}}
    trial.template(chart, right)
    wrong = {**right, **change, **({"hub": hub | change["hub"]} if "hub" in change else {})}
    with pytest.raises(lab.CommandError) as refused:
        trial.template(chart, wrong)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("name", ["Bad_Name", "hub", "a" * 41, "-c3", "c3.example"])
def test_no_token_is_made_for_a_name_that_is_no_label(name: str) -> None:
    before = [item["metadata"]["name"] for item in lab.HUB.list("namespaces")]
    with pytest.raises(lab.CommandError) as refused:
        hub_command("token", "create", f"--cluster={name}")
    assert "ended with 1: fleetboard: " in str(refused.value)
    assert repr(name) in str(refused.value)
    assert [item["metadata"]["name"] for item in lab.HUB.list("namespaces")] == before
