"""What an ExportedService says of its Service, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from mcs_objects import addresses, make_export, make_service, make_source

from fleetboard.model import core, fleet
from syncer.member.exports import plan


def exported(**fields: object) -> fleet.ExportedServiceSpec:
    found = plan.plan(make_source(**fields), cluster="c1", addresses_of=addresses()).exported
    assert found is not None
    return found.spec


@pytest.mark.parametrize("type_", ["ClusterIP", "NodePort", "LoadBalancer"])
def test_mcs4_types_with_an_address_are_exported_as_cluster_set_ip(type_: str) -> None:
    assert exported(service=make_service(type_=type_)).type == "ClusterSetIP"


def test_mcs4_a_headless_service_stays_headless() -> None:
    assert exported(service=make_service(cluster_ip="None")).type == "Headless"


def test_mcs6_ports_are_those_of_the_service_without_node_and_target_ports() -> None:
    port = core.CoreServicePort(port=443, name="https", protocol="TCP", app_protocol="https", node_port=30443)
    assert exported(service=make_service(ports=[port])).ports == [
        fleet.ServicePort(port=443, name="https", protocol="TCP", app_protocol="https")
    ]


def test_mcs6_labels_come_from_the_export_and_never_from_the_services_metadata() -> None:
    service = make_service()
    labelled = msgspec.structs.replace(service.metadata, labels={"secret": "1"}, annotations={"secret": "1"})
    spec = exported(
        service=msgspec.structs.replace(service, metadata=labelled), export=make_export(labels={"team": "a"})
    )
    assert (spec.exported_labels, spec.exported_annotations) == ({"team": "a"}, {})


def test_mcs6_affinity_carries_its_timeout_and_the_default_one_where_none_is_given() -> None:
    config = core.CoreSessionAffinityConfig(client_ip=core.CoreClientIP(timeout_seconds=60))
    given = exported(service=make_service(session_affinity="ClientIP", session_affinity_config=config))
    default = exported(service=make_service(session_affinity="ClientIP"))
    none = exported(service=make_service())
    timeouts = [spec.session_affinity_timeout_s for spec in (given, default, none)]
    assert timeouts == [60, 10800, 0]


def test_a_recreated_export_is_known_by_its_uid() -> None:
    assert exported(export=make_export(uid="new")).export_uid == "new"


def test_mcs6_traffic_policy_distribution_and_families_are_the_services() -> None:
    fields: dict[str, Any] = {
        "internal_traffic_policy": "Local",
        "traffic_distribution": "PreferClose",
        "ip_families": ["IPv4"],
    }
    spec = exported(service=make_service(**fields))
    assert {name: getattr(spec, name) for name in fields} == fields
