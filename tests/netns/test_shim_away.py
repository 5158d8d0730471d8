"""The packed executable while cnf is missing, back, hanging up or answering nonsense (CNI 27 in README.md)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import pathlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import shim_node
from netlab import Nets
from shim_node import Answer, Node, environ

from cnf.attach.spool import Spool

pytestmark = pytest.mark.netns

NEW = {"cniVersion": "1.1.0"}


@pytest.fixture
def node(nets: Nets, tmp_path: pathlib.Path, shim: pathlib.Path) -> Iterator[Node]:
    with shim_node.make_node(nets, tmp_path, shim) as made:
        yield made


@contextlib.contextmanager
def answering(node: Node, answer: bytes) -> Iterator[None]:
    """Stand in for a cnf that dies within a call, or for another program: read a little, send ``answer``, hang up."""
    stop = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                caller, _ = listener.accept()
                with caller:
                    caller.recv(10)
                    caller.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(node.run / "cni.sock"))
        listener.listen()
        listener.settimeout(0.1)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(10)


def test_while_cnf_is_away_all_but_deletions_are_put_off(node: Node) -> None:
    pod = node.nets.make()
    calls = {
        "ADD": lambda: node.call("ADD", "one", pod, config={"cniVersion": "0.4.0"}),
        "CHECK": lambda: node.call("CHECK", "one", pod),
        "GC": lambda: node.call("GC", "", None, config=NEW),
        "STATUS": lambda: node.call("STATUS", "", None, config=NEW),
        "VERSION": lambda: node.call("VERSION", "", None),
        "DEL": lambda: node.call("DEL", "one", pod),
    }
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as runtime:
        answers = {verb: call.result() for verb, call in {v: runtime.submit(c) for v, c in calls.items()}.items()}
    assert {verb: answer.code for verb, answer in answers.items()} == {
        "ADD": 11,
        "CHECK": 11,
        "GC": 11,
        "STATUS": 50,
        "VERSION": 0,
        "DEL": 0,
    }
    assert answers["ADD"].content["cniVersion"] == "0.4.0"
    assert "cnf" in answers["ADD"].content["msg"]
    assert answers["DEL"] == Answer(0, b"", b"")
    assert [path.name for path in node.spooled] == ["one-net1"]


def test_a_deletion_while_cnf_is_away_is_served_when_it_is_back(node: Node) -> None:
    pod = node.nets.make()
    with node.serving():
        assert node.call("ADD", "one", pod).status == 0
    # A killed process leaves a socket without a listener.
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(node.run / "cni.sock"))
    assert node.call("DEL", "one", pod) == Answer(0, b"", b"")
    assert node.call("DEL", "one", pod) == Answer(0, b"", b"")
    assert pod.answers_ping("10.112.4.0")
    assert Spool(node.run / "del", node.cni.calls.call).replay() == 1
    assert "net1" not in pod.run("ip", "link")
    assert (node.spooled, node.cni.attachments()) == ([], [])


def test_without_a_spool_there_is_nothing_to_delete(node: Node) -> None:
    (node.run / "del").rmdir()
    assert node.call("DEL", "one", None) == Answer(0, b"", b"")
    assert list(node.run.iterdir()) == []


@pytest.mark.parametrize("container", [".hidden", "../../etc/x", "x" * 300])
def test_an_invalid_file_name_is_not_spooled(node: Node, container: str) -> None:
    assert node.call("DEL", container, None).code == 11
    assert node.spooled == []


def test_a_full_disk_is_reported(node: Node) -> None:
    folder = f"{shim_node.RUN}/del"
    fill = f"mount -t tmpfs -o size=4k tmpfs {folder} && head -c 4096 /dev/zero >{folder}/x"
    answer = node.execute(environ("DEL", "one", None), b"{}", prepare=fill)
    assert (answer.code, answer.stderr) == (11, b"")


def test_a_cnf_that_is_back_soon_is_waited_for(node: Node) -> None:
    pod = node.nets.make()
    with concurrent.futures.ThreadPoolExecutor(1) as runtime:
        call = runtime.submit(node.call, "ADD", "one", pod)
        with contextlib.suppress(TimeoutError):
            call.result(timeout=1)
        assert not call.done()
        with node.serving():
            assert call.result(timeout=20).status == 0


@pytest.mark.parametrize("answer", [b"", b"0", b"0 5\nabc", b"zero 1\nx", b"\xff\n", b"0 2\n{}trailing"])
def test_half_an_answer_counts_as_no_answer(node: Node, answer: bytes) -> None:
    with answering(node, answer):
        assert node.call("ADD", "one", node.nets.make()).code == 11
        assert node.call("DEL", "one", None) == Answer(0, b"", b"")
    assert [path.name for path in node.spooled] == ["one-net1"]


def test_a_cnf_that_hangs_up_within_a_request_is_away(node: Node) -> None:
    """The request is larger than the socket's buffer, so the executable is still sending."""
    stdin = b'{"cniVersion":"1.0.0","name":"fleetboard","filler":"' + bytes(900_000).replace(b"\0", b"x") + b'"}'
    with answering(node, b""):
        answer = node.execute(environ("ADD", "one", node.nets.make()), stdin)
        assert (answer.code, answer.stderr) == (11, b"")
        assert node.execute(environ("DEL", "one", None), stdin) == Answer(0, b"", b"")
    assert [path.name for path in node.spooled] == ["one-net1"]


def test_a_cnf_that_never_answers_is_away_after_half_a_minute(node: Node) -> None:
    """kubelet waits four minutes; cnf answers within 30 s whatever it waits for."""
    with socket.socket(socket.AF_UNIX) as silent, concurrent.futures.ThreadPoolExecutor(2) as runtime:
        silent.bind(str(node.run / "cni.sock"))
        silent.listen()
        add = runtime.submit(node.call, "ADD", "one", node.nets.make())
        deletion = runtime.submit(node.call, "DEL", "one", None)
        assert add.result(timeout=50).code == 11
        assert deletion.result(timeout=50) == Answer(0, b"", b"")
    assert [path.name for path in node.spooled] == ["one-net1"]


def test_a_cnf_that_has_stopped_accepting_is_away(
    node: Node, eventually: Callable[[Callable[[], object]], None]
) -> None:
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(node.run / "cni.sock"))
        listener.listen(0)
        waiting = opened.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(node.run / "cni.sock"))
        assert node.call("DEL", "one", None) == Answer(0, b"", b"")
    assert [path.name for path in node.spooled] == ["one-net1"]
