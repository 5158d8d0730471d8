"""What the kernel reads of a message is the map's elements, whatever lengths their keys and values have."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from cnf.netlink import wire
from cnf.vip import elements
from cnf.vip.elements import ElementChanges

_HEAD, _HEADER = 4, 4
_ELEMENTS, _KEY, _DATA, _VALUE = 3, 1, 2, 1

lengths = st.integers(1, 5).map(lambda words: words * 4)
keys = lengths.flatmap(lambda length: st.binary(min_size=length, max_size=length))
values = st.just(b"") | keys


def read(message: wire.Message) -> Iterator[tuple[bytes, bytes]]:
    """Take a message apart as the kernel does: lengths come from the attributes alone."""
    left = wire.attributes(message.body[_HEAD:])[_ELEMENTS]
    while left:
        length = int.from_bytes(left[:2], "little")
        assert _HEADER < length <= len(left)
        parts = wire.attributes(left[_HEADER:length])
        yield _value(parts[_KEY]), _value(parts[_DATA]) if _DATA in parts else b""
        left = left[length:]


def _value(nested: bytes) -> bytes:
    return wire.attributes(nested)[_VALUE]


@given(st.dictionaries(keys, values, min_size=1, max_size=20))
def test_each_element_is_read_as_it_was_meant(members: dict[bytes, bytes]) -> None:
    (message,) = elements.frame(ElementChanges({}, {"spread4_1": members}), table="t")

    assert dict(read(message)) == members
