"""What the CNI executable makes of bytes: requests that cnf reads, answers, and errors that are always JSON."""

from __future__ import annotations

import json
import pathlib
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnf.attach import frames, protocol
from cni import shim

NAMES = st.sampled_from([b"CNI_COMMAND", b"CNI_CONTAINERID", b"CNI_NETNS", b"CNI_IFNAME", b"CNI_ARGS", b"CNI_PATH"])
VALUES = st.binary(max_size=60).filter(lambda value: b"\0" not in value)


@given(st.dictionaries(NAMES, VALUES), st.binary(max_size=300))
def test_cnf_reads_what_was_framed(env: dict[bytes, bytes], config: bytes) -> None:
    request = frames.parse_request(shim.frame({**env, b"PATH": b"/bin", b"XCNI_": b"x"}, config))
    assert request.stdin == config
    assert {name.encode(): value.encode(errors="surrogateescape") for name, value in request.env.items()} == env


@given(st.binary(max_size=200) | st.binary(max_size=40).map(lambda tail: b'{"cniVersion":"' + tail))
def test_an_error_is_json_whatever_the_configuration(config: bytes) -> None:
    assert json.loads(shim.error(config, 11, b"away"))["code"] == 11


@pytest.mark.parametrize(
    ("config", "version"),
    [
        (b'{"cniVersion":"0.4.0"}', b"0.4.0"),
        (b'{"name":"x", "cniVersion" :\n "1.1.0"}', b"1.1.0"),
        (b"{}", b"1.0.0"),
        (b'{"cniVersion":1}', b"1.0.0"),
        (b'{"cniVersion":"\\u0031"}', b"1.0.0"),
    ],
)
def test_an_error_echoes_the_version_of_the_configuration(config: bytes, version: bytes) -> None:
    assert shim.version_of(config) == version


def test_version_says_what_cnf_serves() -> None:
    assert json.loads(shim.VERSION)["supportedVersions"] == list(protocol.VERSIONS)


class Hasty(socket.socket):
    """A connection to a cnf that answers and hangs up as soon as it has read everything."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        super().__init__(fileno=ours.detach())

    def sendmsg(self, *parts: Any) -> int:
        sent = super().sendmsg(*parts)
        self.theirs.sendall(b"0 2\n{}")
        self.theirs.recv(1 << 16)
        self.theirs.close()
        return sent


def test_an_answer_is_read_though_cnf_has_hung_up() -> None:
    with Hasty() as stream, pathlib.Path("/dev/null").open("rb") as netns:
        shim.send(stream, b"request", netns.fileno())
        assert shim.receive(stream) == (0, b"{}")


def answered(answer: bytes) -> tuple[int, bytes]:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(answer)
        return shim.receive(ours)


@given(st.integers(0, 255), st.binary(max_size=300))
def test_an_answer_is_taken_whole(code: int, stdout: bytes) -> None:
    assert answered(frames.Response(code, stdout).encode()) == (code, stdout)


@given(st.integers(0, 255), st.binary(min_size=1, max_size=50), st.integers(0, 40))
def test_a_cut_off_answer_is_not_an_answer(code: int, stdout: bytes, kept: int) -> None:
    whole = frames.Response(code, stdout).encode()
    with pytest.raises((OSError, ValueError)):
        answered(whole[: min(kept, len(whole) - 1)])
