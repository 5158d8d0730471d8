"""Setting up CoreDNS' forwarding against an API, with the Deployment's controller played by the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_api import FakeApi

from fleetboard.model import names
from syncer.member.dns import corefile, forwarding, rollout
from syncer.member.dns.forwarding import ForwardingState

SYSTEM = "kube-system"
COREFILE = ".:53 {\n    errors\n    kubernetes cluster.local\n    reload\n}\n"
WELL = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "observedGeneration": 0}
STUCK = {"replicas": 3, "updatedReplicas": 1, "availableReplicas": 1, "observedGeneration": 0}
GONE = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 0, "observedGeneration": 0}


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as made:
        made.put("services", "crossdns", names.NAMESPACE, spec={"clusterIP": "10.96.0.11"})
        made.put("configmaps", "coredns", SYSTEM, data={"Corefile": COREFILE})
        put_deployment(made, **WELL)
        yield made


@pytest.fixture
def controller(api: FakeApi) -> Iterator[forwarding.ForwardingController]:
    client = api.client()
    yield forwarding.ForwardingController(client, rollout_s=1.5, outage_s=0.5)
    client.close()


def put_deployment(api: FakeApi, **status: int) -> None:
    api.put("deployments", "coredns", SYSTEM, spec={"replicas": 2, "template": {"metadata": {}}}, status=status)


def check(controller: forwarding.ForwardingController) -> forwarding.ForwardingOutcome:
    return controller.check(threading.Event())


def config(api: FakeApi, name: str = "coredns") -> dict[str, Any]:
    return api.objects["configmaps", SYSTEM, name]


def text(api: FakeApi) -> str:
    return str(config(api)["data"]["Corefile"])


def progress(api: FakeApi, name: str = "coredns") -> str:
    return str(config(api, name)["metadata"].get("annotations", {}).get(forwarding.PROGRESS, ""))


def restarted_for(api: FakeApi) -> str | None:
    template = api.objects["deployments", SYSTEM, "coredns"]["spec"]["template"]["metadata"]
    found = template.get("annotations", {}).get(rollout.RESTARTED_FOR)
    return None if found is None else str(found)


def writes(api: FakeApi) -> list[str]:
    return [f"{request.method} {request.path}" for request in api.requests if request.method not in ("GET",)]


def when(condition: Callable[[], bool], then: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        deadline = time.monotonic() + 30
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_the_block_is_written_and_the_pods_start_with_it(
    api: FakeApi, controller: forwarding.ForwardingController
) -> None:
    outcome = check(controller)
    assert outcome.state is ForwardingState.SETTLED
    assert "10.96.0.11" in outcome.message
    assert text(api).startswith(COREFILE)
    assert "forward . 10.96.0.11" in text(api)
    assert progress(api) == f"done {restarted_for(api)}"


def test_a_second_check_writes_nothing(api: FakeApi, controller: forwarding.ForwardingController) -> None:
    check(controller)
    api.requests.clear()
    assert check(controller).state is ForwardingState.SETTLED
    assert writes(api) == []


def test_a_block_that_an_upgrade_took_is_put_back(api: FakeApi, controller: forwarding.ForwardingController) -> None:
    check(controller)
    api.put("configmaps", "coredns", SYSTEM, data={"Corefile": COREFILE})
    assert check(controller).state is ForwardingState.SETTLED
    assert "forward . 10.96.0.11" in text(api)


def test_a_new_address_is_followed(api: FakeApi, controller: forwarding.ForwardingController) -> None:
    check(controller)
    first = restarted_for(api)
    api.put("services", "crossdns", names.NAMESPACE, spec={"clusterIP": "10.96.0.77"})
    assert check(controller).state is ForwardingState.SETTLED
    assert "10.96.0.11" not in text(api)
    assert restarted_for(api) != first


def test_a_coredns_that_does_not_come_up_gets_its_text_back(
    api: FakeApi, controller: forwarding.ForwardingController
) -> None:
    patch_status(api, STUCK)
    outcome = check(controller)
    assert outcome.state is ForwardingState.REFUSED
    assert "rolled back" in outcome.message
    assert text(api) == COREFILE
    assert restarted_for(api) is None
    wait_for_event(api, "ForwardingRolledBack")
    patch_status(api, WELL)
    assert check(controller).state is ForwardingState.REFUSED
    assert text(api) == COREFILE


def test_a_coredns_that_is_wholly_gone_is_not_waited_for(api: FakeApi) -> None:
    client = api.client()
    controller = forwarding.ForwardingController(client, rollout_s=60, outage_s=0.5)
    patch_status(api, STUCK)
    broken = when(lambda: restarted_for(api) is not None, lambda: patch_status(api, GONE))
    began = time.monotonic()
    assert check(controller).state is ForwardingState.REFUSED
    assert time.monotonic() - began < 60, "the time that a rollout has"
    assert text(api) == COREFILE
    broken.join()
    client.close()


def test_a_refused_configuration_is_tried_again_when_asked(
    api: FakeApi, controller: forwarding.ForwardingController
) -> None:
    patch_status(api, STUCK)
    check(controller)
    patch_status(api, WELL)
    api.put("configmaps", "coredns", SYSTEM, data={"Corefile": text(api)})
    assert check(controller).state is ForwardingState.SETTLED


def test_a_restart_in_the_middle_goes_on(api: FakeApi, controller: forwarding.ForwardingController) -> None:
    stop = threading.Event()
    patch_status(api, STUCK)
    broken = when(lambda: restarted_for(api) is not None, stop.set)
    assert controller.check(stop).state is ForwardingState.WAITING
    broken.join()
    assert progress(api) == f"trying {restarted_for(api)}"
    patch_status(api, WELL)
    assert check(controller).state is ForwardingState.SETTLED


def test_an_unavailable_coredns_is_not_touched(api: FakeApi, controller: forwarding.ForwardingController) -> None:
    patch_status(api, GONE)
    assert check(controller).state is ForwardingState.WAITING
    assert text(api) == COREFILE


def test_a_service_without_an_address_is_waited_for(api: FakeApi, controller: forwarding.ForwardingController) -> None:
    api.remove("services", "crossdns", names.NAMESPACE)
    assert check(controller).state is ForwardingState.WAITING


def test_zones_that_are_taken_are_reported(api: FakeApi, controller: forwarding.ForwardingController) -> None:
    taken = COREFILE + "hyperos.local clusterset.local {\n    whoami\n}\n"
    api.put("configmaps", "coredns", SYSTEM, data={"Corefile": taken})
    outcome = check(controller)
    assert outcome.state is ForwardingState.REFUSED
    assert "already served" in outcome.message
    assert text(api) == taken


def test_removal_leaves_no_trace(api: FakeApi, controller: forwarding.ForwardingController) -> None:
    check(controller)
    controller.remove()
    controller.remove()
    assert text(api) == COREFILE
    assert restarted_for(api) is None
    assert progress(api) == ""


def test_an_imported_config_map_is_made_and_deleted(api: FakeApi, controller: forwarding.ForwardingController) -> None:
    importing = COREFILE + "import /etc/coredns/custom/*.server\n"
    api.put("configmaps", "coredns", SYSTEM, data={"Corefile": importing})
    assert check(controller).state is ForwardingState.SETTLED
    assert text(api) == importing
    assert "forward . 10.96.0.11" in config(api, "coredns-custom")["data"][corefile.CUSTOM_KEY]
    controller.remove()
    assert ("configmaps", SYSTEM, "coredns-custom") not in api.objects


def test_an_imported_config_map_of_others_keeps_their_keys(
    api: FakeApi, controller: forwarding.ForwardingController
) -> None:
    api.put("configmaps", "coredns", SYSTEM, data={"Corefile": COREFILE + "import custom/*.server\n"})
    api.put("configmaps", "coredns-custom", SYSTEM, data={"corp.server": "corp {\n}\n"})
    assert check(controller).state is ForwardingState.SETTLED
    controller.remove()
    assert config(api, "coredns-custom")["data"] == {"corp.server": "corp {\n}\n"}


def test_a_conflicting_write_is_repeated_on_removal(api: FakeApi, controller: forwarding.ForwardingController) -> None:
    check(controller)
    api.fail(409, method="PATCH", reason="Conflict")
    controller.remove()
    assert text(api) == COREFILE


@pytest.mark.parametrize("missing", ["configmaps", "deployments"])
def test_a_foreign_dns_gets_advice_and_no_write(
    api: FakeApi, controller: forwarding.ForwardingController, missing: str
) -> None:
    api.remove(missing, "coredns", SYSTEM)
    outcome = check(controller)
    assert outcome.state is ForwardingState.UNMANAGED
    assert "forward . 10.96.0.11" in outcome.message
    assert writes(api) == []


def test_kube_dns_gets_its_own_advice(api: FakeApi, controller: forwarding.ForwardingController) -> None:
    api.remove("configmaps", "coredns", SYSTEM)
    api.put("deployments", "kube-dns", SYSTEM)
    assert 'stubDomains: {"hyperos.local": ["10.96.0.11"]' in check(controller).message


def test_nodelocal_dns_cache_is_spoken_of(api: FakeApi, controller: forwarding.ForwardingController) -> None:
    api.put("daemonsets", "node-local-dns", SYSTEM)
    assert "kube-system/node-local-dns" in check(controller).message


def patch_status(api: FakeApi, status: dict[str, int]) -> None:
    with api.changed:
        key = ("deployments", SYSTEM, "coredns")
        api.store(key, {**api.objects[key], "status": status})


def wait_for_event(api: FakeApi, reason: str) -> None:
    deadline = time.monotonic() + 30
    while not any(obj.get("reason") == reason for key, obj in list(api.objects.items()) if key[0] == "events"):
        assert time.monotonic() < deadline, "no Event"
        time.sleep(0.02)
