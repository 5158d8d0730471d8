"""kube-proxy keeps every cluster IP through its first full sync.

That sync, which comes again every hour, reads its own table by ``nft --json`` and deletes the elements it doesn't know.
It doesn't know its own where ``nft`` can't name protocols: it wrote ``tcp`` and reads ``6``.
"""

from __future__ import annotations

import collections
import json
import socket
from collections.abc import Callable
from typing import Any

import lab
import pytest

CLUSTERS = (lab.HUB, lab.C1, lab.C2)
NAMESPACE = "e2e-kube-proxy"
METRICS = "http://127.0.0.1:10249/metrics"
STARTED = "process_start_time_seconds"
FULL_SYNCS = 'kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"}'
SYNCED = 'kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}'
"""Set by a sync that succeeded; until one did, every sync is a full one."""
PROTOCOLS = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": socket.IPPROTO_SCTP}

Address = tuple[str, int, int]
"""A cluster IP, the protocol's number and the port."""
Slices = dict[tuple[str, str], lab.Objects]
"""The EndpointSlices of a Service by its namespace and name."""


@pytest.fixture(scope="module", autouse=True)
def pods(namespaces: Callable[[str], str]) -> lab.Pods:
    """Start a pod on every node of both members, then kube-proxy again on every node of all clusters."""
    namespaces(NAMESPACE)
    found = [start_pod(cluster, node) for cluster in (lab.C1, lab.C2) for node in cluster.nodes()]
    before = {(cluster, node): metrics(cluster, node)[STARTED] for cluster in CLUSTERS for node in cluster.nodes()}
    for cluster in CLUSTERS:
        cluster.kubectl("-n", "kube-system", "delete", "pods", "-l", "k8s-app=kube-proxy", timeout_s=120)
    for (cluster, node), started in before.items():
        wait_synced(cluster, node, after=started)
    return found


def start_pod(cluster: lab.Cluster, node: str) -> lab.Pod:
    cluster.apply(lab.make_deployment(node, NAMESPACE, node=node, attached=False))
    (pod,) = cluster.wait_pods(NAMESPACE, node, 1)
    return pod


def metrics(cluster: lab.Cluster, node: str) -> dict[str, float]:
    """Return the metrics of a node's kube-proxy by name and labels."""
    shown = cluster.node_exec(node, "curl", "-fsS", "--max-time", "5", METRICS)
    lines = (line.rpartition(" ") for line in shown.splitlines() if not line.startswith("#"))
    return {name: float(figure) for name, _, figure in lines}


def wait_synced(cluster: lab.Cluster, node: str, *, after: float) -> None:
    """Wait until a kube-proxy that started later than ``after`` has done a full sync."""

    def synced() -> bool:
        now = metrics(cluster, node)
        assert now[STARTED] > after, "the old one still answers"
        return now[FULL_SYNCS] > 0 and now[SYNCED] > now[STARTED]

    lab.eventually(synced, within_s=90, every_s=0.5)


def in_table(cluster: lab.Cluster, node: str) -> set[Address]:
    """Return what kube-proxy's table on a node translates."""
    command = ("nft", "--json", "--numeric-protocol", "list", "map", "ip", "kube-proxy", "service-ips")
    shown = json.loads(cluster.node_exec(node, *command))["nftables"]
    (found,) = (one["map"] for one in shown if "map" in one)
    concatenated = (key["concat"] for key, _ in found.get("elem", []))
    return {(address, int(protocol), int(port)) for address, protocol, port in concatenated}


def wanted(cluster: lab.Cluster, node: str) -> set[Address]:
    """Return the cluster IPs that have a ready endpoint for traffic from that node."""
    slices: Slices = collections.defaultdict(list)
    for one in cluster.list("endpointslices"):
        metadata = one["metadata"]
        slices[metadata["namespace"], metadata.get("labels", {}).get("kubernetes.io/service-name", "")].append(one)
    return {
        (service["spec"]["clusterIP"], PROTOCOLS[port["protocol"]], port["port"])
        for service in cluster.list("services")
        if service["spec"].get("clusterIP", "None") != "None"
        for port in service["spec"]["ports"]
        if has_endpoint(service, port, slices, node)
    }


def has_endpoint(service: dict[str, Any], port: dict[str, Any], slices: Slices, node: str) -> bool:
    local = service["spec"].get("internalTrafficPolicy") == "Local"
    return any(
        endpoint.get("conditions", {}).get("ready", True) and (not local or endpoint.get("nodeName") == node)
        for one in slices[service["metadata"]["namespace"], service["metadata"]["name"]]
        if any(offered.get("name", "") == port.get("name", "") for offered in one.get("ports") or ())
        for endpoint in one.get("endpoints") or ()
    )


@pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda cluster: cluster.name)
def test_every_cluster_ip_is_still_in_the_table_of_every_node(cluster: lab.Cluster) -> None:
    for node in cluster.nodes():

        def complete(node: str = node) -> bool:
            expected = wanted(cluster, node)
            missing = expected - in_table(cluster, node)
            assert not missing, f"{node}: {len(missing)} of {len(expected)} are missing: {sorted(missing)}"
            return bool(expected)

        # Other tests' Services may still be going away.
        lab.eventually(complete, within_s=10, every_s=1)


@pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda cluster: cluster.name)
def test_a_node_reaches_the_api_server_at_its_cluster_ip(cluster: lab.Cluster) -> None:
    address = cluster.get("service", "kubernetes", "default")["spec"]["clusterIP"]
    for node in cluster.nodes():
        assert cluster.node_exec(node, "curl", "-kfsS", "--max-time", "5", f"https://{address}/livez") == "ok"


def test_a_pod_resolves_and_reaches_the_api_server_through_cluster_ips(pods: lab.Pods) -> None:
    for pod in pods:
        name = "kubernetes.default.svc.cluster.local"
        assert pod.sh(f"curl -kfsS --max-time 5 https://{name}/livez") == "ok"
