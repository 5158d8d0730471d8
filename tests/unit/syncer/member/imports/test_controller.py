"""What this cluster imports follows the hub and its own namespaces, also changes that the syncer did not see."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import fake_api
import joined_cluster
import pytest
from joined_cluster import IMPORTS, MERGED, SET, SLICES, eventually, never
from mcs_objects import MCS_GROUP_VERSION, import_schema

from fleetboard.kube import errors


@pytest.fixture
def cluster() -> Iterator[joined_cluster.Cluster]:
    with joined_cluster.make() as made:
        yield made


REMOTE = "c2.shop.web.ipv4.x"


def addresses(cluster: joined_cluster.Cluster, name: str = "web", namespace: str = "shop") -> list[str]:
    found = cluster.imported(name, namespace)
    return found.spec.ips if found is not None else []


def test_mcs2_mcs20_an_exported_name_is_one_import_in_a_namespace_that_is_there_and_nowhere_else(
    cluster: joined_cluster.Cluster,
) -> None:
    cluster.merge("c1", "c2")
    cluster.merge("c2", namespace="elsewhere")
    cluster.export("u1=10.113.0.5")
    cluster.publish("10.113.4.7")
    cluster.publish("10.113.4.8", namespace="elsewhere")
    with cluster.running():
        eventually(lambda: addresses(cluster) and cluster.received() == ["10.113.0.5", "10.113.4.7"])
        assert [key for key in cluster.local.objects if key[0] == IMPORTS] == [(IMPORTS, "shop", "web")]
        assert not cluster.received("elsewhere")
        cluster.local.put("namespaces", "elsewhere", "")
        eventually(lambda: addresses(cluster, "web", "elsewhere") and cluster.received("elsewhere") == ["10.113.4.8"])


def test_mcs27_every_slice_is_owned_by_the_import_of_this_cluster(cluster: joined_cluster.Cluster) -> None:
    cluster.merge("c2")
    cluster.publish("10.113.4.7")
    with cluster.running():
        eventually(lambda: cluster.received())
        uid = cluster.local.objects[IMPORTS, "shop", "web"]["metadata"]["uid"]
        (key,) = (key for key in cluster.local.objects if key[0] == SLICES)
        owners = cluster.local.objects[key]["metadata"]["ownerReferences"]
        assert [(one["kind"], one["uid"]) for one in owners if one["kind"] == "ServiceImport"] == [
            ("ServiceImport", uid)
        ]
        assert not any(one.get("controller") for one in owners)


def test_mcs3_the_slices_of_one_cluster_go_with_its_export_and_the_import_with_the_last(
    cluster: joined_cluster.Cluster,
) -> None:
    cluster.merge("c1", "c2")
    cluster.export("u1=10.113.0.5")
    cluster.publish("10.113.4.7")
    with cluster.running():
        eventually(lambda: cluster.received() == ["10.113.0.5", "10.113.4.7"])
        cluster.merge("c1")
        eventually(lambda: cluster.received() == ["10.113.0.5"])
        cluster.local.remove("serviceexports", "web", "shop")
        cluster.hub.remove(MERGED, "shop.web", SET)
        eventually(lambda: not cluster.received() and cluster.imported() is None)


def test_mcs22_status_names_the_clusters_and_whether_there_are_slices(cluster: joined_cluster.Cluster) -> None:
    cluster.merge("c2")
    cluster.publish("10.113.4.7")
    with cluster.running():
        eventually(lambda: (one := cluster.imported()) is not None and one.status.clusters)
        found = cluster.imported()
        assert found is not None
        status = found.status
        assert [one.cluster for one in status.clusters] == ["c2"]
        assert status.endpoint_slice_objects == "Present"
        assert [(one.type, one.status, one.reason) for one in status.conditions] == [("Ready", "True", "Ready")]


OPTIONAL = ("spec.internalTrafficPolicy", "spec.trafficDistribution", "status.endpointSliceObjects")


@pytest.mark.parametrize("lacking", [OPTIONAL, OPTIONAL[1:]])
def test_an_older_definition_is_not_sent_fields_that_it_lacks(
    cluster: joined_cluster.Cluster, lacking: tuple[str, ...]
) -> None:
    cluster.local.openapi[MCS_GROUP_VERSION] = import_schema(*lacking)
    cluster.merge("c2", internal_traffic_policy="Local", traffic_distribution="PreferClose")
    with cluster.running():
        eventually(lambda: (one := cluster.imported()) is not None and one.status.clusters)
        found = cluster.local.objects[IMPORTS, "shop", "web"]
        there = {f"{part}.{field}" for part in ("spec", "status") for field in found[part]}
        assert set(OPTIONAL) & there == set(OPTIONAL) - set(lacking)


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_definition_that_can_not_be_read_is_no_older_one(cluster: joined_cluster.Cluster, status: int) -> None:
    cluster.local.fail(status, path="/openapi/v3")
    with pytest.raises(errors.ApiError), cluster.running():
        pass


def test_a_label_that_no_api_server_takes_is_left_out_and_reported(cluster: joined_cluster.Cluster) -> None:
    cluster.merge("c2", exported_labels={"a b": "c d!", "team": "a"}, exported_annotations={"big": "x" * 300_000})
    cluster.publish("10.113.4.7")
    with cluster.running():
        eventually(lambda: (one := cluster.imported()) is not None and one.status.conditions)
        found = cluster.imported()
        assert found is not None
        assert found.metadata.labels == {"team": "a"}
        assert "2 exported labels and annotations left out" in found.status.conditions[0].message


def test_endpoints_follow_although_the_import_can_not_be_written(cluster: joined_cluster.Cluster) -> None:
    cluster.merge("c2")
    cluster.publish("10.113.4.7")
    with cluster.running():
        eventually(lambda: cluster.received() == ["10.113.4.7"])
        cluster.local.fail(422, times=10000, method="PATCH", reason="Invalid", path="/serviceimports/web")
        cluster.merge("c2", vips=["10.112.0.10"])
        cluster.publish("10.113.4.8")
        eventually(lambda: cluster.received() == ["10.113.4.8"])
        cluster.merge("c1", vips=["10.112.0.10"])
        eventually(lambda: not cluster.received())
        assert addresses(cluster) == ["10.112.0.9"]
        cluster.local.faults.clear()
        eventually(lambda: addresses(cluster) == ["10.112.0.10"])


def test_a_field_that_another_owns_and_we_leave_out_is_no_reason_to_write(cluster: joined_cluster.Cluster) -> None:
    cluster.merge("c2")
    with cluster.running():
        eventually(lambda: (one := cluster.imported()) is not None and one.status.conditions)
        with cluster.local.changed:
            found = cluster.local.objects[IMPORTS, "shop", "web"]
            spec = {**found["spec"], "internalTrafficPolicy": "Local"}
            cluster.local.store((IMPORTS, "shop", "web"), {**found, "spec": spec})
        before = len(cluster.local.requests)
        cluster.publish("10.113.4.7")
        eventually(lambda: cluster.received() == ["10.113.4.7"])
        cluster.publish("10.113.4.8")
        eventually(lambda: cluster.received() == ["10.113.4.8"])
        asked = [one.path for one in cluster.local.requests[before:] if one.method == "PATCH"]
        assert not [path for path in asked if path.endswith("/serviceimports/web")]


def test_a_field_that_the_merge_no_longer_has_is_taken_away(cluster: joined_cluster.Cluster) -> None:
    cluster.merge("c2", internal_traffic_policy="Local")
    with cluster.running():
        eventually(lambda: (one := cluster.imported()) is not None and one.spec.internal_traffic_policy)
        cluster.merge("c2")
        eventually(lambda: (one := cluster.imported()) is not None and one.spec.internal_traffic_policy is None)


def test_mcs28_nothing_is_withdrawn_before_the_first_contact_with_the_hub(cluster: joined_cluster.Cluster) -> None:
    cluster.merge("c1", "c2")
    cluster.export("u1=10.113.0.5")
    cluster.publish("10.113.4.7")
    with cluster.running():
        eventually(lambda: cluster.received() == ["10.113.0.5", "10.113.4.7"])
        eventually(lambda: (MERGED, "fleetboard-system", "shop.web") in cluster.local.objects)
    cluster.hub.stalled.set()
    with cluster.running():
        # Its own endpoints go on being followed.
        cluster.endpoints("u2=10.113.0.6")
        eventually(lambda: cluster.received() == ["10.113.0.6", "10.113.4.7"])
        assert addresses(cluster)


def test_what_the_hub_dropped_while_the_syncer_was_down_goes_when_it_is_back(cluster: joined_cluster.Cluster) -> None:
    cluster.merge("c2")
    cluster.merge("c2", name="api")
    cluster.publish("10.113.4.7")
    cluster.publish("10.113.4.8", name="api")
    with cluster.running():
        eventually(lambda: cluster.received() == ["10.113.4.7", "10.113.4.8"] and addresses(cluster, "api"))
        eventually(lambda: (MERGED, "fleetboard-system", "shop.web") in cluster.local.objects)
    cluster.hub.remove(MERGED, "shop.web", SET)
    cluster.hub.remove(SLICES, REMOTE, SET)
    with cluster.running():
        eventually(lambda: cluster.imported() is None and cluster.received() == ["10.113.4.8"])
        eventually(lambda: (MERGED, "fleetboard-system", "shop.web") not in cluster.local.objects)
        assert addresses(cluster, "api")


def test_changes_at_the_hub_during_a_relist_after_410_arrive(cluster: joined_cluster.Cluster) -> None:
    cluster.merge("c2")
    cluster.publish("10.113.4.7")
    with cluster.running():
        eventually(lambda: cluster.received() == ["10.113.4.7"])
        with cluster.hub.changed:
            del cluster.hub.objects[SLICES, SET, REMOTE]
            cluster.hub.compact()
        eventually(lambda: cluster.received() == [])
        cluster.publish("10.113.4.9")
        eventually(lambda: cluster.received() == ["10.113.4.9"])


def test_mcs8_nothing_is_imported_into_a_refused_namespace(cluster: joined_cluster.Cluster) -> None:
    cluster.local.put("namespaces", "kube-system", "")
    cluster.merge("c2", namespace="kube-system")
    cluster.publish("10.113.4.7", namespace="kube-system")
    cluster.merge("c2")
    with cluster.running():
        eventually(lambda: addresses(cluster))
        never(lambda: cluster.imported("web", "kube-system") or cluster.received("kube-system"))


def test_an_import_that_a_user_deletes_is_back_with_its_address(cluster: joined_cluster.Cluster) -> None:
    cluster.merge("c2")
    cluster.publish("10.113.4.7")
    with cluster.running():
        eventually(lambda: cluster.received())
        old = cluster.local.objects[IMPORTS, "shop", "web"]["metadata"]["uid"]
        cluster.local.remove(IMPORTS, "web", "shop")
        eventually(lambda: addresses(cluster) == ["10.112.0.9"])
        new = cluster.local.objects[IMPORTS, "shop", "web"]["metadata"]["uid"]
        assert new != old

        def owners() -> set[str]:
            found = [obj for key, obj in cluster.local.objects.items() if key[0] == SLICES]
            return {one["uid"] for obj in found for one in obj["metadata"]["ownerReferences"]}

        eventually(lambda: new in owners() and old not in owners())


@pytest.mark.parametrize("written", [["10.0.0.1"], []])
def test_what_others_write_into_an_import_is_put_right(cluster: joined_cluster.Cluster, written: list[str]) -> None:
    cluster.merge("c2")
    with cluster.running():
        eventually(lambda: addresses(cluster))
        with cluster.local.changed:
            found = cluster.local.objects[IMPORTS, "shop", "web"]
            cluster.local.store((IMPORTS, "shop", "web"), {**found, "spec": {**found["spec"], "ips": written}})
        eventually(lambda: addresses(cluster) == ["10.112.0.9"])


@pytest.mark.parametrize("phase", ["before the watch says so", "known"])
def test_a_namespace_that_is_being_deleted_is_left_alone_and_not_made_again(
    cluster: joined_cluster.Cluster, phase: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    cluster.merge("c2")
    message = "namespace shop is being terminated"
    if phase == "known":
        with cluster.local.changed:
            metadata = {"name": "shop", "namespace": "", "deletionTimestamp": "2026-01-01T00:00:00Z"}
            cluster.local.store(("namespaces", "", "shop"), {"metadata": metadata})
    cluster.local.fail(403, times=10000, method="PATCH", reason="Forbidden", message=message, path="/serviceimports")
    with cluster.running():
        eventually(
            lambda: any(key[0] == "fleetservices" and key[2] == "shop.web" for key in list(cluster.local.objects))
        )  # the copy is written

        def tries() -> int:
            return sum(one.method == "PATCH" and "/serviceimports" in one.path for one in list(cluster.local.requests))

        if phase == "known":
            never(lambda: tries(), for_s=1.0)
        else:
            eventually(lambda: tries() >= 2)
            never(lambda: tries() > 60, for_s=1.0)
            assert any("being terminated" in getattr(record, "error", "") for record in caplog.records)
        assert not [one for one in cluster.local.requests if one.method == "POST" and one.path.endswith("/namespaces")]
        # Made again under the same name, it gets its imports.
        cluster.local.faults.clear()
        cluster.local.remove("namespaces", "shop", "")
        cluster.local.put("namespaces", "shop", "")
        eventually(lambda: addresses(cluster))


def test_addresses_that_are_not_the_source_clusters_are_counted_in_the_condition_and_the_metric(
    cluster: joined_cluster.Cluster,
) -> None:
    cluster.merge("c2")
    cluster.publish("10.113.4.7", "10.113.0.7", "169.254.169.254")
    with cluster.running() as member:
        eventually(lambda: cluster.received() == ["10.113.4.7"])

        def messages() -> list[str]:
            found = cluster.imported()
            return [one.message for one in found.status.conditions] if found is not None else []

        # Before the slices came there was nothing to count.
        eventually(lambda: any("2 addresses of cluster c2 refused" in message for message in messages()))
        assert member.import_controller.dropped() == {"c2": 2}
        cluster.publish("10.113.4.7")
        eventually(lambda: member.import_controller.dropped() == {})


def test_an_import_written_by_hand_is_adopted_and_emptied_after_the_last_export(
    cluster: joined_cluster.Cluster,
) -> None:
    cluster.local.put(IMPORTS, "web", "shop", spec={"type": "ClusterSetIP", "ports": []})
    cluster.merge("c2")
    with cluster.running():
        eventually(lambda: addresses(cluster))
        cluster.hub.remove(MERGED, "shop.web", SET)
        eventually(lambda: not addresses(cluster))

        def conditions() -> dict[str, tuple[str, str]]:
            found = cluster.imported()
            assert found is not None
            assert found.metadata.annotations == {"fleetboard.io/managed": "adopted"}
            return {one.type: (one.status, one.reason) for one in found.status.conditions}

        eventually(lambda: conditions() == {"Ready": ("False", "Pending")})


def test_watches_that_an_outage_left_silent_are_made_again(cluster: joined_cluster.Cluster) -> None:
    cluster.merge("c2")
    cluster.publish("10.113.4.5")

    def reports() -> list[fake_api.RecordedRequest]:
        return [one for one in list(cluster.hub.requests) if one.method == "PATCH" and "/peerreports" in one.path]

    with cluster.running() as member:
        eventually(lambda: cluster.received() == ["10.113.4.5"])
        eventually(lambda: member.report_controller.last_sent > 0)
        cluster.hub.mute()
        cluster.publish("10.113.4.5", "10.113.4.6")
        never(lambda: "10.113.4.6" in cluster.received())
        # No status of HTTP: the connection breaks in the middle of the answer.
        cluster.hub.fail(99, times=10**6, method="PATCH", path="/peerreports")
        lost = len(reports())
        member.report_controller.last_sent = -float("inf")
        member.report_controller.wake()
        eventually(lambda: len(reports()) > lost)
        cluster.hub.faults.clear()
        eventually(lambda: "10.113.4.6" in cluster.received())
