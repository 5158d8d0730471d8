"""What the Multi-Cluster Services API (KEP-1645) promises, seen in both clusters by plain pods that never asked for us.

Upstream's conformance suite asks for the same from outside (docs/conformance.md). Numbers are those of the requirements
in tests/README.md. Every service is exported by c1 first, so that c1's word wins a conflict.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
from collections.abc import Callable
from typing import Any

import dnslib
import lab
import observer
import paths
import paths_pod
import pytest

NAMESPACE = "e2e-mcs"
IMPORTS = "serviceimports.v1beta1.multicluster.x-k8s.io"
EXPORTS = "serviceexports.v1beta1.multicluster.x-k8s.io"
PORT, OTHER, TARGET = 42, 4242, paths_pod.HTTP_PORT
SERVERS = {"c1": 2, "c2": 1}
ROUNDS = 12
AFFINITY = {"clientIP": {"timeoutSeconds": 10}}
MEMBERS = (lab.C1, lab.C2)

SERVE = ["python3", "-c", paths.SOURCE, "serve"]
FETCH = f"for i in $(seq {ROUNDS}); do curl -sS -m 5 http://$0:$1/; done"
ASK = observer.EXCHANGE + "import sys\nprint(exchange(bytes.fromhex(sys.argv[1]))[0].hex())"


def service(name: str, *ports: tuple[str, str, int], **spec: Any) -> dict[str, Any]:
    """Make a Service for the servers; ports are (name, protocol, port)."""
    made = lab.make_service(name, NAMESPACE, *((*port, TARGET) for port in ports or [("tcp", "TCP", PORT)]))
    made["metadata"] |= {"labels": {"theirs": "service"}, "annotations": {"theirs": "service"}}
    made["spec"] |= {"selector": {"app": "server"}} | spec
    return made


def export(name: str, **spec: Any) -> dict[str, Any]:
    made = lab.make_export(name, NAMESPACE) | {"apiVersion": "multicluster.x-k8s.io/v1beta1", "spec": spec}
    made["metadata"] |= {"labels": {"theirs": "export"}, "annotations": {"theirs": "export"}}
    return made


def exported(word: str) -> dict[str, Any]:
    return {"exportedLabels": {"word": word}, "exportedAnnotations": {"word": word}}


FIRST = (
    service("hidden"),
    service("lone", sessionAffinity="ClientIP", sessionAffinityConfig=AFFINITY),
    export("lone", **exported("yes")),
    service("twice", ("tcp", "TCP", PORT), ("udp", "UDP", PORT)),
    export("twice"),
    service("union"),
    export("union"),
    service("clash"),
    export("clash"),
    service("kinds"),
    export("kinds", **exported("first")),
    service("bare", clusterIP="None"),
    export("bare"),
    service("outer", type="ExternalName", externalName="example.com", selector=None),
    export("outer"),
    service("leaving"),
    export("leaving"),
    export("missing"),
)
THEN = (
    service("lone"),
    service("union", ("tcp", "TCP", PORT), ("more", "TCP", OTHER)),
    export("union"),
    service("clash", ("tcp", "TCP", OTHER)),
    export("clash"),
    service("kinds", clusterIP="None"),
    export("kinds", **exported("second")),
    service("leaving"),
    export("leaving"),
)
EXPORTED = sorted({one["metadata"]["name"] for one in FIRST if one["kind"] == "ServiceExport"} - {"outer", "missing"})


@dataclasses.dataclass(frozen=True)
class World:
    """One asking pod in each cluster, and the servers' names."""

    clients: dict[str, lab.Pod]
    servers: dict[str, set[str]]

    def fetch(self, cluster: lab.Cluster, name: str, port: int = PORT) -> set[str]:
        """Return which servers answered a number of connections."""
        lines = self.clients[cluster.name].exec("sh", "-ec", FETCH, lab.dns_name(name, NAMESPACE), str(port))
        return {line.split()[0] for line in lines.splitlines()}

    def ask(self, cluster: lab.Cluster, host: str, kind: str = "A") -> dnslib.DNSRecord:
        """Ask the cluster's own DNS, as a pod does."""
        question = dnslib.DNSRecord.question(host, kind).pack().hex()
        return dnslib.DNSRecord.parse(bytes.fromhex(self.clients[cluster.name].exec("python3", "-c", ASK, question)))

    def addresses(self, cluster: lab.Cluster, host: str) -> set[str]:
        """Return the A records of a name."""
        return {str(record.rdata) for record in self.ask(cluster, host).rr}


def make_plain(name: str, **options: Any) -> dict[str, Any]:
    """Make a Deployment whose pods say nothing about networks."""
    made = lab.make_deployment(name, NAMESPACE, **options)
    del made["spec"]["template"]["metadata"]["annotations"]
    return made


@pytest.fixture(scope="module")
def world(namespaces: Callable[[str], str]) -> World:
    namespaces(NAMESPACE)
    for cluster in MEMBERS:
        servers = make_plain("server", replicas=SERVERS[cluster.name], command=SERVE, probe_port=TARGET)
        cluster.apply(servers, make_plain("client"))
    lab.C1.apply(*FIRST)
    for name in EXPORTED:
        lab.eventually(functools.partial(find_import, lab.C1, name), within_s=60)
    lab.C2.apply(*THEN)
    for name in EXPORTED:
        lab.eventually(functools.partial(find_import, lab.C2, name), within_s=60)
    clients = {cluster.name: cluster.wait_pods(NAMESPACE, "client", 1)[0] for cluster in MEMBERS}
    servers = {
        cluster.name: {pod.name for pod in cluster.wait_pods(NAMESPACE, "server", SERVERS[cluster.name])}
        for cluster in MEMBERS
    }
    return World(clients, servers)


def find_import(cluster: lab.Cluster, name: str) -> dict[str, Any]:
    return cluster.get(IMPORTS, name, NAMESPACE)


def is_imported(cluster: lab.Cluster, name: str) -> bool:
    return any(found["metadata"]["name"] == name for found in cluster.list(IMPORTS, NAMESPACE))


def slices_of(cluster: lab.Cluster, name: str) -> list[dict[str, Any]]:
    return cluster.list("endpointslices", NAMESPACE, selector=f"multicluster.kubernetes.io/service-name={name}")


def condition(cluster: lab.Cluster, name: str, kind: str) -> tuple[str, str]:
    """Return status and reason of a condition of a ServiceExport."""
    conditions = cluster.get(EXPORTS, name, NAMESPACE)["status"]["conditions"]
    return next((one["status"], one["reason"]) for one in conditions if one["type"] == kind)


def wait_condition(cluster: lab.Cluster, name: str, kind: str, *wanted: str) -> None:
    lab.eventually(lambda: condition(cluster, name, kind) == wanted, within_s=60)


def ports_of(found: dict[str, Any]) -> set[tuple[str, str, int]]:
    return {(port["name"], port["protocol"], port["port"]) for port in found["spec"]["ports"]}


def test_mcs1_a_service_without_an_export_of_its_own_is_seen_nowhere(world: World) -> None:
    for cluster in MEMBERS:
        answer = world.ask(cluster, lab.dns_name("hidden", NAMESPACE))
        assert dnslib.RCODE[answer.header.rcode] == "NXDOMAIN"
        assert not is_imported(cluster, "hidden")
        lab.eventually(lambda: world.fetch(cluster, "lone") <= world.servers["c1"], within_s=60)  # noqa: B023


def test_mcs3_an_import_lives_as_long_as_any_export(world: World) -> None:
    def exporters(cluster: lab.Cluster) -> set[str]:
        sources = {one["metadata"]["labels"][f"{prefix}/source-cluster"] for one in slices_of(cluster, "leaving")}
        named = {one["cluster"] for one in find_import(cluster, "leaving")["status"]["clusters"]}
        assert sources == named
        return named

    prefix = "multicluster.kubernetes.io"
    for cluster in MEMBERS:
        lab.eventually(lambda: exporters(cluster) == {"c1", "c2"}, within_s=60)  # noqa: B023
    address = find_import(lab.C2, "leaving")["spec"]["ips"]
    lab.C1.delete(EXPORTS, "leaving", NAMESPACE)
    for cluster in MEMBERS:
        lab.eventually(lambda: exporters(cluster) == {"c2"}, within_s=60)  # noqa: B023
        assert find_import(cluster, "leaving")["spec"]["ips"] == address
    lab.C2.delete(EXPORTS, "leaving", NAMESPACE)
    for cluster in MEMBERS:
        lab.eventually(lambda: not is_imported(cluster, "leaving"), within_s=60)  # noqa: B023
        lab.eventually(lambda: not slices_of(cluster, "leaving"), within_s=60)  # noqa: B023


@pytest.mark.usefixtures("world")
def test_mcs4_an_external_name_is_not_exported() -> None:
    wait_condition(lab.C1, "outer", "Valid", "False", "InvalidServiceType")
    assert not any(is_imported(cluster, "outer") for cluster in MEMBERS)


@pytest.mark.usefixtures("world")
def test_mcs5_an_export_waits_for_its_service() -> None:
    wait_condition(lab.C1, "missing", "Valid", "False", "NoService")
    lab.C1.apply(service("missing"))
    wait_condition(lab.C1, "missing", "Valid", "True", "Valid")
    lab.eventually(lambda: is_imported(lab.C2, "missing"), within_s=60)


@pytest.mark.usefixtures("world")
def test_mcs6_only_labels_and_annotations_that_an_export_names_are_seen() -> None:
    for cluster in MEMBERS:
        metadata = lab.eventually(lambda: find_import(cluster, "lone"), within_s=60)["metadata"]  # noqa: B023
        assert metadata["labels"]["word"] == metadata["annotations"]["word"] == "yes"
        assert "theirs" not in metadata["labels"] | metadata["annotations"]


def test_mcs7_the_clusters_own_names_stay_its_own(world: World) -> None:
    for cluster in MEMBERS:
        own = cluster.get("service", "lone", NAMESPACE)["spec"]["clusterIP"]
        assert world.addresses(cluster, f"lone.{NAMESPACE}.svc.cluster.local") == {own}
    assert not world.addresses(lab.C2, f"twice.{NAMESPACE}.svc.cluster.local")


def test_mcs11_mcs16_ports_that_differ_are_united_and_both_exports_report_it(world: World) -> None:
    wanted = {("tcp", "TCP", PORT), ("more", "TCP", OTHER)}
    for cluster in MEMBERS:
        wait_condition(cluster, "union", "Conflict", "True", "PortConflict")
        lab.eventually(lambda: ports_of(find_import(cluster, "union")) == wanted, within_s=60)  # noqa: B023


def test_mcs16_of_two_ports_with_one_name_the_older_is_used(world: World) -> None:
    for cluster in MEMBERS:
        wait_condition(cluster, "clash", "Conflict", "True", "PortConflict")
        assert ports_of(find_import(cluster, "clash")) == {("tcp", "TCP", PORT)}


def test_mcs17_a_port_is_served_only_by_clusters_that_export_it(world: World) -> None:
    for cluster in MEMBERS:
        served = {("clash", PORT): world.servers["c1"], ("union", OTHER): world.servers["c2"]}
        for (name, port), servers in served.items():
            assert lab.eventually(lambda: world.fetch(cluster, name, port), within_s=60) <= servers  # noqa: B023
        for servers in world.servers.values():
            lab.eventually(lambda: world.fetch(cluster, "union", PORT) & servers, within_s=60)  # noqa: B023


@pytest.mark.usefixtures("world")
def test_mcs18_type_labels_and_affinity_are_the_oldest_exports() -> None:
    reasons = "AnnotationsConflict,LabelsConflict,TypeConflict"
    for cluster in MEMBERS:
        wait_condition(cluster, "kinds", "Conflict", "True", reasons)
        found = find_import(cluster, "kinds")
        assert found["spec"]["type"] == "ClusterSetIP"
        assert found["metadata"]["labels"]["word"] == found["metadata"]["annotations"]["word"] == "first"
        lone = find_import(cluster, "lone")["spec"]
        assert (lone["sessionAffinity"], lone["sessionAffinityConfig"]) == ("ClientIP", AFFINITY)
    assert condition(lab.C1, "lone", "Conflict") == ("False", "NoConflicts")


@pytest.mark.usefixtures("world")
def test_mcs21_mcs23_addresses_go_with_families_and_headless_has_none() -> None:
    for cluster in MEMBERS:
        spec = find_import(cluster, "lone")["spec"]
        versions = [ipaddress.ip_address(one).version for one in spec["ips"]]
        assert [f"IPv{version}" for version in versions] == spec["ipFamilies"]
        assert spec["ips"] == find_import(lab.C1, "lone")["spec"]["ips"], "one address in all clusters"
        bare = find_import(cluster, "bare")["spec"]
        assert (bare["type"], bare.get("ips", []), bare["ipFamilies"]) == ("Headless", [], ["IPv4"])


@pytest.mark.usefixtures("world")
def test_mcs26_mcs27_slices_carry_the_labels_and_the_owner_that_bind() -> None:
    for cluster in MEMBERS:
        owner = find_import(cluster, "twice")["metadata"]["uid"]
        for found in lab.eventually(lambda: slices_of(cluster, "twice"), within_s=60):  # noqa: B023
            labels = found["metadata"]["labels"]
            assert labels["multicluster.kubernetes.io/source-cluster"] == "c1"
            assert labels["endpointslice.kubernetes.io/managed-by"] == "fleetboard.io"
            assert owner in [one["uid"] for one in found["metadata"]["ownerReferences"]]
            assert not [one for one in found["endpoints"] if "nodeName" in one or "targetRef" in one]


def test_mcs32_the_name_of_a_service_is_its_address(world: World) -> None:
    for cluster in MEMBERS:
        assert world.addresses(cluster, lab.dns_name("twice", NAMESPACE)) == set(
            find_import(cluster, "twice")["spec"]["ips"]
        )
        empty = world.ask(cluster, lab.dns_name("twice", NAMESPACE), "AAAA")
        assert (dnslib.RCODE[empty.header.rcode], empty.rr) == ("NOERROR", [])


def service_records(answer: dnslib.DNSRecord) -> list[tuple[int, str]]:
    """Return port and target of each SRV record."""
    return sorted((record.rdata.port, str(record.rdata.target).rstrip(".")) for record in answer.rr)


def test_mcs33_mcs41_service_records_name_the_port_once(world: World) -> None:
    host = lab.dns_name("twice", NAMESPACE)
    for cluster in MEMBERS:
        for name in (host, f"_tcp._tcp.{host}", f"_udp._udp.{host}"):
            assert service_records(world.ask(cluster, name, "SRV")) == [(PORT, host)]


def test_mcs35_mcs36_a_headless_service_gives_every_endpoint_and_each_a_name(world: World) -> None:
    host = lab.dns_name("bare", NAMESPACE)
    servers = [lab.Pod(lab.C1, NAMESPACE, name) for name in world.servers["c1"]]
    wanted = {pod.fleet_address: pod.sh("hostname -i").split()[0].replace(".", "-") for pod in servers}
    for cluster in MEMBERS:
        lab.eventually(lambda: world.addresses(cluster, host) == set(wanted), within_s=60)  # noqa: B023
        for address, hostname in wanted.items():
            assert world.addresses(cluster, f"{hostname}.c1.{host}") == {address}
        records = service_records(world.ask(cluster, host, "SRV"))
        assert records == sorted((TARGET, f"{hostname}.c1.{host}") for hostname in wanted.values())
        assert not world.addresses(cluster, f"c1.{host}"), "a cluster alone has no name (34)"
