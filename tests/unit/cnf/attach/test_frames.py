"""The protocol between the CNI executable and cnf."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnf.attach import errors, frames

_TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)


@given(st.dictionaries(_TEXT.map(lambda t: "CNI_" + t.replace("=", "")), _TEXT), st.binary(max_size=50))
def test_what_is_framed_is_read_back(env: dict[str, str], stdin: bytes) -> None:
    request = frames.parse_request(frames.render_request(env, stdin))
    assert (dict(request.env), request.stdin) == (env, stdin)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"GET / HTTP/1.1\n",
        b"FLEETCNI/1 -1 0\n",
        b"FLEETCNI/1 1 x\n",
        b"FLEETCNI/2 0 0\n",
        b"FLEETCNI/1 5 0\nCNI",
        b"FLEETCNI/1 99999999 0\n",
        b"FLEETCNI/1 0 99999999\n",
        b"FLEETCNI/1 0 0\nmore",
    ],
)
def test_other_bytes_are_refused(frame: bytes) -> None:
    with pytest.raises(errors.FrameError):
        frames.parse_request(frame)


def test_bytes_that_are_no_text_are_kept_apart() -> None:
    request = frames.parse_request(b"FLEETCNI/1 11 0\nCNI_X=\xff\xfe\0=y")
    assert request.env["CNI_X"].encode(errors="surrogateescape") == b"\xff\xfe"


def test_an_answer_is_code_length_and_output() -> None:
    assert frames.Response(1, b"{}").encode() == b"1 2\n{}"
