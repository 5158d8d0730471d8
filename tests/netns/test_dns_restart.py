"""crossdns as it runs in a pod ends, dies and starts again: what clients are answered meanwhile."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator

import dns_processes
import dnslib
import pytest
from dns_objects import contents, make_service, put_service, rcode
from fake_api import FakeApi

from crossdns.server import drain

pytestmark = pytest.mark.netns

WEB = "web.shop.svc.hyperos.local"
NAMES = 5
"""``svc``, ``shop.svc``, the service, ``_tcp`` and its port."""


@pytest.fixture(scope="module", autouse=True)
def netns() -> Iterator[None]:
    with dns_processes.inside("dns-restart"):
        yield


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as made:
        made.put("namespaces", "shop", "")
        put_service(made, make_service())
        yield made


def ask(name: str = WEB) -> dnslib.DNSRecord:
    return dnslib.DNSRecord.parse(dnslib.DNSRecord.question(name).send("127.0.0.1", dns_processes.PORT, timeout=30))


def test_a_client_that_keeps_asking_gets_current_answers_until_it_stops(api: FakeApi, tmp_path: pathlib.Path) -> None:
    pod = dns_processes.Pod.start(api.url, tmp_path, drain_s=drain.MOST_S)
    pod.wait_names(NAMES)
    pod.terminate()
    began, asks_until = time.monotonic(), drain.LEAST_S + 1
    new = make_service(vips=["10.112.0.10"])
    changed_after = last = 0.0
    while (after := time.monotonic() - began) < asks_until:
        addresses = contents(ask())
        last = after
        if after > 2 and not changed_after:
            put_service(api, new)
            changed_after = after
        expected = (
            [["10.112.0.9"], ["10.112.0.10"]] if after < changed_after + 10 or not changed_after else [["10.112.0.10"]]
        )
        assert addresses in expected, after
        time.sleep(0.05)
    assert addresses == ["10.112.0.10"]
    assert not pod.ready()
    assert pod.process.wait(90) == 0
    assert time.monotonic() - began >= last + drain.QUIET_S - 0.2


def test_a_process_that_was_killed_answers_from_what_it_saved_while_the_api_is_away(
    api: FakeApi, tmp_path: pathlib.Path
) -> None:
    pod = dns_processes.Pod.start(api.url, tmp_path)
    pod.wait_names(NAMES)
    file = tmp_path / "zone.bin"
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline, "nothing saved after a minute"
        time.sleep(0.05)
    pod.kill()
    api.stalled.set()
    pod = dns_processes.Pod.start(api.url, tmp_path)
    deadline = time.monotonic() + 60
    while not pod.ready():
        assert time.monotonic() < deadline, "not ready after a minute"
        time.sleep(0.05)
    assert contents(ask()) == ["10.112.0.9"]
    assert rcode(ask("other." + WEB)) == "NXDOMAIN"
    api.stalled.clear()
    pod.end()


def test_without_a_saved_zone_it_is_not_ready_and_says_servfail(api: FakeApi, tmp_path: pathlib.Path) -> None:
    api.stalled.set()
    pod = dns_processes.Pod.start(api.url, tmp_path)
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = ask()
            break
        except OSError:
            assert time.monotonic() < deadline, "no answer after a minute"
            time.sleep(0.05)
    assert rcode(answer) == "SERVFAIL"
    assert not pod.ready()
    api.stalled.clear()
    pod.wait_names(NAMES)
    assert contents(ask()) == ["10.112.0.9"]
    pod.end()
