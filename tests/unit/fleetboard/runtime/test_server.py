"""The metrics and health server."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import prometheus_client
import pytest

from fleetboard.kube import metrics
from fleetboard.runtime import server

State = dict[str, str | None]


@pytest.fixture
def state() -> State:
    return {"healthy": None, "ready": None}


@pytest.fixture
def running(state: State) -> Iterator[server.ObserveServer]:
    registry = prometheus_client.CollectorRegistry()
    metrics.register(registry)
    prometheus_client.Counter("fleetboard_test", "A count.", registry=registry).inc()
    started = server.serve(
        port=0, registry=registry, unhealthy_reason=lambda: state["healthy"], unready_reason=lambda: state["ready"]
    )
    yield started
    started.close()


def ask(
    running: server.ObserveServer, path: str, *, accept: str = "*/*", host: str = "127.0.0.1"
) -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://{host}:{running.port}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.headers["Content-Type"], err.read().decode()


def test_metrics_are_shown_in_both_formats(running: server.ObserveServer) -> None:
    status, content_type, text = ask(running, "/metrics?x=1")
    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    assert "fleetboard_test_total 1.0" in text
    assert "# HELP fleetboard_reconcile_errors_total" in text
    assert "_created" not in text
    _, content_type, text = ask(running, "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")


def test_health_shows_the_sentence(running: server.ObserveServer, state: State) -> None:
    assert ask(running, "/healthz")[::2] == (200, "ok\n")
    assert ask(running, "/readyz")[::2] == (200, "ok\n")
    state["ready"] = "The API has not been reached yet."
    assert ask(running, "/readyz")[::2] == (503, "The API has not been reached yet.\n")
    assert ask(running, "/healthz")[0] == 200


def test_a_check_that_fails_counts_as_unwell(running: server.ObserveServer, state: State) -> None:
    del state["healthy"]
    assert ask(running, "/healthz")[0] == 503


def test_other_paths_do_not_exist(running: server.ObserveServer) -> None:
    assert ask(running, "/")[0] == 404


def test_both_address_families_are_served(running: server.ObserveServer) -> None:
    if socket.has_dualstack_ipv6():
        assert ask(running, "/healthz", host="[::1]")[0] == 200


def test_silent_clients_cannot_take_more_than_their_share(running: server.ObserveServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", running.port), 5) for _ in range(server.MAX_REQUESTS)]
    with socket.create_connection(("127.0.0.1", running.port), 5) as refused:
        assert refused.recv(1) == b""
    for sock in silent:
        sock.close()
    for _ in range(100):
        try:
            assert ask(running, "/healthz")[0] == 200
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
            continue
        return
    pytest.fail("no answer once the silent clients had gone")
