from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnf.tunnel.session import wire
from cnf.tunnel.wireguard import key

KEY = key.generate().public

_nonces = st.integers(0, 2**63 - 1)
_messages = st.one_of(
    st.builds(wire.Probe, _nonces),
    st.builds(wire.Echo, _nonces),
    st.builds(wire.Announcement, _nonces, st.text(min_size=1, max_size=40), st.integers(0, 2**31 - 1), st.just(KEY)),
    st.builds(wire.Ack, _nonces, st.text(min_size=1, max_size=40), st.integers(0, 2**31 - 1), st.booleans()),
)


@given(_messages)
def test_messages_survive_the_wire(message: wire.Message) -> None:
    datagram = wire.encode(message)
    assert wire.decode(datagram) == message
    assert len(datagram) <= wire.LARGEST


@given(st.binary(max_size=80), st.booleans())
def test_no_datagram_breaks_the_decoder(garbage: bytes, ours: bool) -> None:
    try:
        decoded = wire.decode(wire.MAGIC * ours + garbage)
    except wire.MalformedError:
        return
    assert wire.decode(wire.encode(decoded)) == decoded


@pytest.mark.parametrize(
    "message",
    [
        wire.Probe(-1),
        wire.Announcement(1, "", 1, KEY),
        wire.Announcement(1, "c1", -1, KEY),
        wire.Announcement(1, "c1", 1, "short"),
        wire.Announcement(1, "c" * 64, 1, KEY),
    ],
)
def test_fields_out_of_range_are_malformed(message: wire.Message) -> None:
    with pytest.raises(wire.MalformedError):
        wire.decode(wire.encode(message))
