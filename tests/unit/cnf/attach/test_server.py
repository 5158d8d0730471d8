"""What the log says of calls that get no answer; ``tests/netns/test_attach_server.py`` has the server's other tests."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import socket
import threading
from collections.abc import Iterator

import pytest

from cnf.attach import frames, server

POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"
ADD = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1", "CNI_ARGS": POD}


@contextlib.contextmanager
def serving(path: pathlib.Path, call: server.Serve, *, max_open: int = server.MAX_OPEN) -> Iterator[None]:
    cni_server = server.CniServer(path, call, allowed_uid=os.getuid(), max_open=max_open)
    stop = threading.Event()
    thread = threading.Thread(target=cni_server.run, args=(stop,))
    thread.start()
    assert cni_server.listening.wait(30)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the server logged; a thread of another test may have logged too."""
    return [record for record in caplog.records if record.name == server.__name__]


def connect(path: pathlib.Path) -> socket.socket:
    caller = socket.socket(socket.AF_UNIX)
    caller.settimeout(30)
    caller.connect(str(path))
    return caller


def test_an_answer_that_nobody_takes_is_logged_with_its_call(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone, undone = threading.Event(), threading.Event()

    def call(_request: frames.Request) -> frames.Response:
        assert gone.wait(30)
        return frames.Response(0, b"", undo=undone.set)

    with serving(tmp_path / "sock", call):
        with connect(tmp_path / "sock") as caller:
            caller.sendall(frames.render_request(ADD, b"{}"))
        gone.set()
        assert undone.wait(30)

    (record,) = logged(caplog)
    assert record.message == "could not deliver the answer to a CNI call; if it was an ADD, it is undone"
    fields = {name: getattr(record, name) for name in ("verb", "container", "interface", "pod")}
    assert fields == {"verb": "ADD", "container": "c1", "interface": "net1", "pod": "shop/web"}


def test_calls_beyond_the_limit_are_logged_once(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    may_end = threading.Event()

    def call(_request: frames.Request) -> frames.Response:
        assert may_end.wait(30)
        return frames.Response(0, b"")

    with serving(tmp_path / "sock", call, max_open=1), connect(tmp_path / "sock") as first:
        first.sendall(frames.render_request(ADD, b"{}"))
        for _ in range(3):
            with connect(tmp_path / "sock") as other:
                assert other.recv(1) == b""
        may_end.set()
        assert first.recv(4) == b"0 0\n"

    assert [record.message for record in logged(caplog)] == ["closed a CNI call unanswered: too many calls are open"]
