"""What this cluster exports follows every change, also one that the syncer did not see."""

from __future__ import annotations

from collections.abc import Iterator

import joined_cluster
import pytest
from joined_cluster import EXPORTED, EXPORTS, MERGED, OWN, SERVICES, SET, SLICES, eventually, never


@pytest.fixture
def cluster() -> Iterator[joined_cluster.Cluster]:
    with joined_cluster.make() as made:
        yield made


def exported(cluster: joined_cluster.Cluster) -> list[str]:
    """Return the names of the ExportedServices at the hub."""
    return sorted(name for kind, namespace, name in list(cluster.hub.objects) if (kind, namespace) == (EXPORTED, OWN))


def test_mcs1_a_service_is_exported_when_there_is_an_export_of_its_name_and_not_before(
    cluster: joined_cluster.Cluster,
) -> None:
    cluster.serve("u1=10.113.0.5")
    # Another cluster's export of the same name exports nothing here.
    cluster.merge("c2")
    with cluster.running():
        eventually(lambda: cluster.imported())
        never(lambda: exported(cluster) or cluster.sent())
        cluster.local.put(EXPORTS, "web", "shop")
        eventually(lambda: cluster.sent() == ["10.113.0.5"])
        assert exported(cluster) == ["shop.web"]


def test_mcs3_a_deleted_export_takes_everything_off_the_hub(cluster: joined_cluster.Cluster) -> None:
    cluster.export("u1=10.113.0.5")
    with cluster.running():
        eventually(lambda: cluster.sent() and exported(cluster))
        cluster.local.remove(EXPORTS, "web", "shop")
        eventually(lambda: not cluster.sent() and not exported(cluster))


def test_mcs5_a_service_that_is_deleted_and_made_again_under_a_living_export_is_exported_again(
    cluster: joined_cluster.Cluster,
) -> None:
    cluster.export("u1=10.113.0.5")
    with cluster.running():
        eventually(lambda: cluster.sent() == ["10.113.0.5"])
        cluster.local.remove(SERVICES, "web", "shop")
        eventually(lambda: not exported(cluster))
        eventually(lambda: cluster.reported().get("Valid") == ("False", "NoService"))
        assert cluster.reported()["Ready"] == ("False", "Pending")
        cluster.serve("u2=10.113.0.6")
        eventually(lambda: cluster.sent() == ["10.113.0.6"] and exported(cluster))
        eventually(lambda: cluster.reported().get("Valid") == ("True", "Valid"))


def test_mcs10_mcs11_conditions_follow_the_hub(cluster: joined_cluster.Cluster) -> None:
    cluster.export("u1=10.113.0.5")
    with cluster.running():
        eventually(lambda: cluster.reported().get("Ready") == ("False", "Pending") and cluster.sent())
        cluster.merge("c1", "c2")
        eventually(lambda: cluster.reported().get("Ready") == ("True", "Exported"))
        assert cluster.reported()["Conflict"] == ("False", "NoConflicts")


def test_what_was_deleted_while_the_syncer_was_down_goes_when_it_is_back(cluster: joined_cluster.Cluster) -> None:
    cluster.export("u1=10.113.0.5")
    cluster.export("u1=10.113.0.5", name="api")
    with cluster.running():
        eventually(lambda: exported(cluster) == ["shop.api", "shop.web"] and len(cluster.sent()) == 2)
    cluster.local.remove(EXPORTS, "web", "shop")
    cluster.local.remove(SERVICES, "web", "shop")
    cluster.local.remove(SLICES, "web-x1", "shop")
    with cluster.running():
        eventually(lambda: exported(cluster) == ["shop.api"] and cluster.sent() == ["10.113.0.5"])


def test_our_slice_that_nobody_remembers_is_deleted_at_the_hub(cluster: joined_cluster.Cluster) -> None:
    labels = {"endpointslice.kubernetes.io/managed-by": "fleetboard.io"}
    with cluster.hub.changed:
        metadata = {"name": "shop.gone.ipv4.0", "namespace": OWN, "labels": labels}
        cluster.hub.store((SLICES, OWN, "shop.gone.ipv4.0"), {"metadata": metadata, "addressType": "IPv4"})
    with cluster.running():
        eventually(lambda: (SLICES, OWN, "shop.gone.ipv4.0") not in cluster.hub.objects)


def test_what_was_taken_from_the_hub_by_another_hand_is_put_back(cluster: joined_cluster.Cluster) -> None:
    cluster.export("u1=10.113.0.5")
    with cluster.running():
        eventually(lambda: cluster.sent() and exported(cluster))
        cluster.hub.remove(EXPORTED, "shop.web", OWN)
        for kind, namespace, name in [key for key in cluster.hub.objects if key[:2] == (SLICES, OWN)]:
            cluster.hub.remove(kind, name, namespace)
        eventually(lambda: cluster.sent() == ["10.113.0.5"] and exported(cluster) == ["shop.web"])


def test_a_member_whose_lists_fail_withdraws_nothing(cluster: joined_cluster.Cluster) -> None:
    cluster.export("u1=10.113.0.5")
    with cluster.running():
        eventually(lambda: cluster.sent() and exported(cluster))
    cluster.local.fail(403, times=1000, reason="Forbidden", path="/serviceexports")
    with cluster.running():
        never(lambda: not exported(cluster) or not cluster.sent(), for_s=1.5)


def test_changes_during_a_relist_after_410_arrive(cluster: joined_cluster.Cluster) -> None:
    cluster.export("u1=10.113.0.5")
    cluster.merge("c1")
    with cluster.running():
        eventually(lambda: cluster.sent() == ["10.113.0.5"] and cluster.reported().get("Ready") == ("True", "Exported"))
        with cluster.local.changed:
            # Nobody sees these events: the past is forgotten before the watches wake.
            del cluster.local.objects[EXPORTS, "shop", "web"]
            cluster.local.compact()
        eventually(lambda: not exported(cluster) and not cluster.sent())


def test_an_export_that_the_hub_refuses_says_so_and_is_tried_again(cluster: joined_cluster.Cluster) -> None:
    refusal = {"method": "POST", "reason": "Forbidden", "message": "exceeded quota", "path": "/exportedservices"}
    cluster.hub.fail(403, times=1000, **refusal)  # type: ignore[arg-type]
    cluster.export("u1=10.113.0.5")
    with cluster.running():
        eventually(lambda: cluster.reported().get("Ready") == ("False", "Failed"))
        # Any change of it is a reason to try again before the long pause is over.
        cluster.hub.faults.clear()
        cluster.endpoints("u1=10.113.0.5", "u2=10.113.0.6")
        eventually(lambda: exported(cluster) and cluster.sent() == ["10.113.0.5", "10.113.0.6"])


@pytest.mark.parametrize("status", [401, 404, 409, 429, 500, 503])
def test_a_hub_that_fails_is_reported_and_tried_again(cluster: joined_cluster.Cluster, status: int) -> None:
    cluster.hub.fail(status, times=1000, method="POST", path="/exportedservices")
    cluster.export("u1=10.113.0.5")
    with cluster.running():
        eventually(lambda: any(one.message.startswith(f"The hub failed: {status}") for one in cluster.conditions()))
        assert cluster.reported()["Ready"] == ("False", "Pending")
        cluster.hub.faults.clear()
        eventually(lambda: exported(cluster) and cluster.sent())


def test_a_merged_export_reports_a_change_that_the_hub_fails_to_take(cluster: joined_cluster.Cluster) -> None:
    cluster.export("u1=10.113.0.5")
    cluster.merge("c1")
    with cluster.running():
        eventually(lambda: cluster.reported().get("Ready") == ("True", "Exported"))
        cluster.hub.fail(503, times=1000, method="PUT", path="/endpointslices")
        cluster.endpoints("u1=10.113.0.5", "u2=10.113.0.6")
        eventually(lambda: any("The hub failed: 503" in one.message for one in cluster.conditions()))
        assert cluster.reported()["Ready"] == ("True", "Exported")


def test_at_a_full_quota_old_slices_go_before_new_ones_come(cluster: joined_cluster.Cluster) -> None:
    cluster.export("u1=10.113.0.5")
    with cluster.running():
        eventually(lambda: cluster.sent())
    (old,) = (key for key in cluster.hub.objects if key[:2] == (SLICES, OWN))
    with cluster.hub.changed:
        # Of another process, which named it otherwise.
        held = cluster.hub.objects[old]
        cluster.hub.remove(SLICES, old[2], OWN)
        metadata = {**held["metadata"], "name": "shop.web.old"}
        cluster.hub.store((SLICES, OWN, "shop.web.old"), {**held, "metadata": metadata})
    cluster.hub.quota[SLICES, OWN] = 1
    with cluster.running():
        eventually(lambda: old in cluster.hub.objects and (SLICES, OWN, "shop.web.old") not in cluster.hub.objects)


def test_an_export_that_is_too_large_says_so(cluster: joined_cluster.Cluster) -> None:
    cluster.serve("u1=10.113.0.5")
    cluster.local.put(EXPORTS, "web", "shop", spec={"exportedAnnotations": {"a": "x" * 70_000}})
    with cluster.running():
        eventually(lambda: cluster.reported().get("Ready") == ("False", "Failed"))
        assert any("expected at most 65536" in one.message for one in cluster.conditions())
        assert not exported(cluster)


def test_an_export_of_a_port_that_the_hub_refuses_says_so(cluster: joined_cluster.Cluster) -> None:
    cluster.export("u1=10.113.0.5")
    port = {"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "<http>"}
    cluster.local.put(SERVICES, "web", "shop", spec={"type": "ClusterIP", "clusterIP": "10.96.0.9", "ports": [port]})
    with cluster.running():
        eventually(lambda: cluster.reported().get("Ready") == ("False", "Failed"))
        assert any("appProtocol '<http>' of port 80" in one.message for one in cluster.conditions())
        assert not exported(cluster)


def test_a_namespace_that_the_hub_does_not_allow_is_refused_with_a_sentence(cluster: joined_cluster.Cluster) -> None:
    peer = cluster.hub.objects["peers", SET, "c1"]
    cluster.hub.put("peers", "c1", SET, spec={**peer["spec"], "exportNamespaces": ["other"]}, status=peer["status"])
    cluster.export("u1=10.113.0.5")
    with cluster.running():
        eventually(lambda: cluster.reported().get("Ready") == ("False", "Failed"))
        assert not exported(cluster)


def test_the_hub_away_keeps_a_merged_export_ready(cluster: joined_cluster.Cluster) -> None:
    cluster.export("u1=10.113.0.5")
    cluster.merge("c1")
    with cluster.running():
        eventually(lambda: cluster.reported().get("Ready") == ("True", "Exported"))
        eventually(lambda: (MERGED, "fleetboard-system", "shop.web") in cluster.local.objects)
        cluster.hub.stalled.set()
        cluster.hub.cut()
        cluster.endpoints("u1=10.113.0.5", "u2=10.113.0.6")
        eventually(lambda: "10.113.0.6" in cluster.received())
        assert cluster.reported()["Ready"] == ("True", "Exported")
        cluster.hub.stalled.clear()
        eventually(lambda: cluster.sent() == ["10.113.0.5", "10.113.0.6"])


def test_a_hub_of_the_version_before_gets_what_its_schema_has(
    cluster: joined_cluster.Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.hub.missing_fields["exportedservices"] = {"internalTrafficPolicy", "trafficDistribution", "ipFamilies"}
    cluster.export("u1=10.113.0.5")
    with cluster.running():
        eventually(lambda: exported(cluster) and cluster.sent())
        assert cluster.hub.objects[EXPORTED, OWN, "shop.web"]["spec"]["ports"]
        cluster.endpoints("u1=10.113.0.5", "u2=10.113.0.6")
        eventually(lambda: cluster.sent() == ["10.113.0.5", "10.113.0.6"])
        assert "ipFamilies" not in cluster.hub.objects[EXPORTED, OWN, "shop.web"]["spec"]
        # One log line reports it, and the dropped fields cause no further writes.
        assert sum("older than this cluster" in record.message for record in caplog.records) == 1
        eventually(lambda: cluster.reported().get("Valid") == ("True", "Valid"))
        before = len(cluster.hub.requests)
        never(lambda: [one for one in cluster.hub.requests[before:] if one.method in ("PUT", "POST")], for_s=1.0)


def test_a_hub_that_fails_is_not_taken_for_an_older_one(cluster: joined_cluster.Cluster) -> None:
    cluster.hub.fail(500, method="POST", message="etcd is away", path="/exportedservices")
    cluster.export("u1=10.113.0.5")
    with cluster.running():
        eventually(lambda: exported(cluster) and cluster.sent())
        assert cluster.hub.objects[EXPORTED, OWN, "shop.web"]["spec"]["ipFamilies"] == ["IPv4"]
