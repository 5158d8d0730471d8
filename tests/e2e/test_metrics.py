"""A Prometheus scrapes every part, by the annotations the charts put on the pods, and finds what the alerts go by."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import pathlib
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import lab
import pytest

NAMESPACE = "e2e-metrics"
APP = "app.kubernetes.io/name"
SIDECARS = {"wireguard"}


@dataclasses.dataclass(frozen=True)
class Target:
    """One of our pods, as its annotations say it is scraped."""

    cluster: lab.Cluster
    app: str
    pod: str
    port: str
    path: str

    def proxied(self, path: str) -> str:
        """Return where the API server of its cluster hands a request on to it."""
        return f"/api/v1/namespaces/{lab.SYSTEM}/pods/{self.pod}:{self.port}/proxy{path}"

    def get(self, path: str) -> str:
        """Ask it."""
        return self.cluster.kubectl("get", "--raw", self.proxied(path))


def find_targets() -> list[Target]:
    """Return what a Prometheus that goes by annotations finds."""
    found = []
    for cluster in (lab.HUB, lab.C1, lab.C2):
        for item in cluster.list("pods", lab.SYSTEM):
            metadata = item["metadata"]
            notes = metadata.get("annotations", {})
            if notes.get("prometheus.io/scrape") == "true" and "deletionTimestamp" not in metadata:
                place = notes["prometheus.io/port"], notes["prometheus.io/path"]
                found.append(Target(cluster, metadata["labels"][APP], metadata["name"], *place))
    return found


@pytest.fixture(scope="module")
def targets() -> list[Target]:
    return find_targets()


@dataclasses.dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def ask(self, path: str, **query: str) -> Any:
        """Ask its API."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=10) as reply:
            return json.load(reply)["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of each series of an expression."""
        found = self.ask("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def up(self) -> dict[str, str]:
        """Return the last error of each target that is not up, by pod."""
        active = self.ask("targets")["activeTargets"]
        assert active, "it has not read its targets yet"
        return {one["labels"]["pod"]: one["lastError"] or one["health"] for one in active if one["health"] != "up"}


@pytest.fixture(scope="module")
def prometheus(targets: list[Target], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    clusters = {target.cluster for target in targets}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape(one, targets, folder) for one in clusters]}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    lab.run("promtool", "check", "config", str(folder / "prometheus.yml"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    running = Prometheus(f"http://{address}")

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(OSError):
            return bool(running.ask("targets")["activeTargets"])
        return False

    try:
        lab.eventually(answers, within_s=60)
        yield running
    finally:
        process.terminate()
        process.wait(30)


def scrape(cluster: lab.Cluster, targets: list[Target], folder: pathlib.Path) -> dict[str, Any]:
    """Configure scraping of one cluster's pods, which only its API server reaches from here."""
    view = json.loads(
        lab.run("kubectl", "config", "view", "--raw", "--minify", f"--context={cluster.context}", "-o=json")
    )
    server, user = view["clusters"][0]["cluster"], view["users"][0]["user"]
    secrets = {
        "ca_file": server["certificate-authority-data"],
        "cert_file": user["client-certificate-data"],
        "key_file": user["client-key-data"],
    }
    tls = {}
    for field, text in secrets.items():
        file = folder / f"{cluster.name}-{field}"
        file.write_bytes(base64.b64decode(text))
        tls[field] = str(file)
    address = urllib.parse.urlsplit(server["server"]).netloc
    static = [
        {
            "targets": [address],
            "labels": {
                "__metrics_path__": target.proxied(target.path),
                "cluster": cluster.name,
                "app": target.app,
                "pod": target.pod,
            },
        }
        for target in targets
        if target.cluster == cluster
    ]
    return {"job_name": cluster.name, "scheme": "https", "tls_config": tls, "static_configs": static}


@pytest.fixture(scope="module")
def traffic(namespaces: Callable[[str], str]) -> None:
    """Leave something to count: attached pods, an export, and a name that nobody has."""
    namespaces(NAMESPACE)
    exported = f"pod-{lab.C1.nodes()[0]}"
    lab.C1.apply(lab.make_service(exported, NAMESPACE, ("tcp", "TCP", 80, 80)), lab.make_export(exported, NAMESPACE))
    for cluster in (lab.C1, lab.C2):
        cluster.apply(*(lab.make_deployment(f"pod-{node}", NAMESPACE, node=node) for node in cluster.nodes()))
    for cluster in (lab.C1, lab.C2):
        for node in cluster.nodes():
            (pod,) = cluster.wait_pods(NAMESPACE, f"pod-{node}", 1)
            with contextlib.suppress(lab.CommandError):
                pod.exec("getent", "hosts", lab.dns_name("nobody", NAMESPACE))


def test_every_part_carries_the_annotations_that_prometheus_goes_by(targets: list[Target]) -> None:
    found = sorted((target.cluster.name, target.app) for target in targets)
    expected = [("hub", "cnf-hub"), ("hub", "syncer-hub")]
    for cluster in (lab.C1, lab.C2):
        expected += [(cluster.name, "cnf") for _ in cluster.nodes()]
        expected += [(cluster.name, app) for app in ("crossdns", "crossdns", "syncer")]
    assert found == sorted(expected)


def test_prometheus_scrapes_every_part(prometheus: Prometheus, targets: list[Target]) -> None:
    lab.eventually(lambda: not prometheus.up(), within_s=60)
    assert len(prometheus.query("up == 1")) == len(targets)
    seconds = [value for _, value in prometheus.query("scrape_duration_seconds")]
    lab.record("slowest scrape", max(seconds))
    lab.record("samples in a scrape, at most", max(value for _, value in prometheus.query("scrape_samples_scraped")))


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ('fleetboard_cni_calls_total{app="cnf", verb="ADD", code="0"} > 0', "attachments that were made"),
        ('fleetboard_cni_call_seconds_bucket{app="cnf", verb="ADD", le="+Inf"} > 0', "and how long they took"),
        ('fleetboard_attachments{app="cnf"} > 0', "attachments that there are"),
        ('fleetboard_addresses_used{app="cnf"} > 0', "addresses used"),
        ('fleetboard_addresses_free{app="cnf"} > 0', "addresses free"),
        ('fleetboard_tunnel_peers{app="cnf"} > 0', "peers"),
        ('fleetboard_leader_epoch{app="cnf"} >= 0', "the leader's term"),
    ],
)
@pytest.mark.usefixtures("traffic")
def test_every_node_shows_its_part(prometheus: Prometheus, targets: list[Target], expression: str, why: str) -> None:
    pods = {target.pod for target in targets if target.app == "cnf"}
    lab.eventually(lambda: {series["pod"] for series, _ in prometheus.query(expression)} == pods, within_s=60)


@pytest.mark.parametrize(
    ("expression", "apps"),
    [
        ("fleetboard_tunnel_handshake_age_seconds < 300", {"cnf", "cnf-hub"}),
        ("fleetboard_tunnel_received_bytes_total > 0", {"cnf", "cnf-hub"}),
        ("fleetboard_tunnel_sent_bytes_total > 0", {"cnf", "cnf-hub"}),
        ("fleetboard_imports > 0", {"syncer"}),
        ("fleetboard_joined == 1", {"syncer"}),
        ("fleetboard_dns_forwarding_settled == 1", {"syncer"}),
        ('fleetboard_sync_seconds_count{direction="import"} > 0', {"syncer"}),
        ("fleetboard_hub_members > 0", {"syncer-hub"}),
        ("fleetboard_hub_exports > 0", {"syncer-hub"}),
        ("fleetboard_hub_copy_seconds_count > 0", {"syncer-hub"}),
        ('fleetboard_dns_queries_total{rcode="NXDOMAIN"} > 0', {"crossdns"}),
        ("fleetboard_kube_last_contact_seconds < 180", {"cnf", "syncer", "crossdns", "cnf-hub", "syncer-hub"}),
    ],
)
@pytest.mark.usefixtures("traffic")
def test_each_part_shows_what_it_knows(prometheus: Prometheus, expression: str, apps: set[str]) -> None:
    lab.eventually(lambda: {series["app"] for series, _ in prometheus.query(expression)} == apps, within_s=60)


def test_one_node_of_each_cluster_is_the_leader(prometheus: Prometheus) -> None:
    expected = [("c1", 1.0), ("c2", 1.0)]

    def leaders() -> list[tuple[str, float]]:
        found = prometheus.query("sum by (cluster) (fleetboard_leader)")
        return sorted((series["cluster"], value) for series, value in found)

    lab.eventually(lambda: leaders() == expected, within_s=60)


@pytest.mark.usefixtures("traffic")
def test_exports_are_counted_where_they_are(prometheus: Prometheus) -> None:
    def counted() -> dict[str, float]:
        return {series["cluster"]: value for series, value in prometheus.query("fleetboard_exports")}

    def there() -> dict[str, float]:
        return {cluster.name: len(cluster.list("serviceexports")) for cluster in (lab.C1, lab.C2)}

    lab.eventually(lambda: counted() == there(), within_s=60)
    assert there()["c1"] > 0


@pytest.mark.parametrize("app", ["cnf", "syncer", "crossdns", "cnf-hub", "syncer-hub"])
def test_promtool_finds_nothing_to_say_about_a_parts_metrics(targets: list[Target], app: str) -> None:
    texts = [target.get(target.path) for target in targets if target.app == app]
    for text in texts:
        assert "fleetboard_reconcile_errors_total" in text
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_every_part_says_that_it_is_well_and_ready(targets: list[Target]) -> None:
    for target in targets:
        for path in ("/healthz", "/readyz"):
            lab.eventually(lambda: target.get(path) == "ok\n", within_s=60)  # noqa: B023 - called at once


def test_logs_are_json_lines_that_say_when_who_and_what(targets: list[Target]) -> None:
    for target in targets:
        spec = target.cluster.get("pod", target.pod, lab.SYSTEM)["spec"]
        (container,) = {one["name"] for one in spec["containers"]} - SIDECARS
        text = target.cluster.kubectl("-n", lab.SYSTEM, "logs", target.pod, "-c", container, "--tail=200")
        lines = [json.loads(line) for line in text.splitlines()]
        assert lines, target
        for line in lines:
            assert {"ts", "level", "component", "logger", "msg"} <= line.keys(), line
            assert line["component"] == target.app
