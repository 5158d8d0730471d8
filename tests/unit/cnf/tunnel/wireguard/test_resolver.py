from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from cnf.tunnel.plan.desired import PeerEndpoint
from cnf.tunnel.wireguard.resolver import Resolver
from fleetboard.model.addresses import Address


def test_a_name_keeps_its_last_good_address_while_dns_is_away() -> None:
    answers: Iterator[list[Address]] = iter([[ip_address("192.0.2.7")], []])
    asked, changed = threading.Semaphore(0), threading.Semaphore(0)
    now = [0.0]

    def look_up(_host: str) -> list[Address]:
        try:
            return next(answers)
        finally:
            asked.release()

    resolver = Resolver(on_change=changed.release, look_up=look_up, clock=lambda: now[0])
    candidates = [PeerEndpoint("hub.example", 9), PeerEndpoint("192.0.2.1", 9)]
    assert [str(found) for found in resolver.addresses(candidates)] == ["192.0.2.1:9"]
    assert asked.acquire(timeout=30)
    assert changed.acquire(timeout=30)
    assert [str(found) for found in resolver.addresses(candidates)] == ["192.0.2.7:9", "192.0.2.1:9"]
    now[0] = 100.0
    resolver.addresses(candidates)
    assert asked.acquire(timeout=30)
    assert [str(found) for found in resolver.addresses(candidates)] == ["192.0.2.7:9", "192.0.2.1:9"]
    assert not changed.acquire(blocking=False)


def test_a_name_that_fails_is_logged_when_that_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answers: Iterator[list[Address] | OSError] = iter([OSError("away"), OSError("away"), [ip_address("192.0.2.7")]])
    now = [0.0]

    def look_up(_host: str) -> list[Address]:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    resolver = Resolver(look_up=look_up, clock=lambda: now[0])
    for _ in range(3):
        resolver.addresses([PeerEndpoint("failing.example", 9)])
        for thread in threading.enumerate():
            if thread.name == "resolve failing.example":
                thread.join(30)
        now[0] += 100
    assert [record.message for record in caplog.records if getattr(record, "host", "") == "failing.example"] == [
        "could not resolve the host name of a peer endpoint, which has no address yet",
        "resolved the host name of a peer endpoint again",
    ]
