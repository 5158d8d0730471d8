"""Pods that run without the interface they ask for are found, and no others."""

import pytest

from cnf.controllers.latecomers import plan
from fleetboard.model import core, fleet, meta, names


def make_pod(
    name: str, *, networks: str = "default/fleetboard", address: str = "10.244.0.9", phase: str = "Running"
) -> core.Pod:
    annotations = {names.ANNOTATION_NETWORKS: networks} if networks else {}
    return core.Pod(
        metadata=meta.ObjectMeta(name=name, namespace="default", uid=f"uid-{name}", annotations=annotations),
        status=core.PodStatus(phase=phase, pod_ip=address),
    )


def make_attachment(name: str) -> fleet.Attachment:
    return fleet.Attachment(pod_uid=f"uid-{name}", pod_namespace="default", pod_name=name, interface="net1")


@pytest.mark.parametrize(
    ("annotation", "interface"),
    [
        ("default/fleetboard", "net1"),
        ("fleetboard", "net1"),
        ("other, default/fleetboard", "net2"),
        ("default/fleetboard@fleet9", "fleet9"),
        ('[{"name": "other"}, {"name": "fleetboard", "namespace": "default"}]', "net2"),
        ('[{"name": "fleetboard", "interface": "x0"}]', "x0"),
        ("other", None),
        ("", None),
        ("[broken", None),
    ],
)
def test_the_interface_is_named_as_multus_names_it(annotation: str, interface: str | None) -> None:
    assert plan.parse_selection(annotation) == interface


def test_a_running_pod_without_its_interface_is_found() -> None:
    found = plan.plan_latecomers([make_pod("late"), make_pod("fine")], [make_attachment("fine")])
    assert [(late.name, late.interface, late.address) for late in found] == [("late", "net1", "10.244.0.9")]


def test_pods_that_did_not_ask_or_are_not_there_yet_or_any_more_are_left_alone() -> None:
    pods = [
        make_pod("plain", networks=""),
        make_pod("starting", address=""),
        make_pod("done", phase="Succeeded"),
    ]
    assert plan.plan_latecomers(pods, []) == []
