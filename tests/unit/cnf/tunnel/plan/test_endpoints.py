from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnf.tunnel import errors
from cnf.tunnel.plan import endpoints
from cnf.tunnel.plan.desired import PeerEndpoint


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1:31820", "192.0.2.1", 31820),
        ("[2001:DB8::1]:9", "2001:db8::1", 9),
        ("Hub.Example:1", "hub.example", 1),
        ("hub-1:65535", "hub-1", 65535),
    ],
)
def test_endpoints_are_read(text: str, host: str, port: int) -> None:
    assert endpoints.parse(text) == PeerEndpoint(host, port)
    assert endpoints.parse(str(endpoints.parse(text))) == endpoints.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hub",
        "hub:",
        ":1",
        "hub:0",
        "hub:65536",
        "hub:x",
        "2001:db8::1:9",
        "[192.0.2.1]:9",
        "192.0.2.256:1",
        "1.2:3",
        "a b:1",
        "-a:1",
        "a..b:1",
        "hub:1\n",
        "[::1:1",
        "x" * 64 + ":1",
    ],
)
def test_malformed_endpoints_are_refused_by_name_and_value(text: str) -> None:
    with pytest.raises(errors.EndpointRefusedError) as caught:
        endpoints.parse(text, field="endpoints")
    assert "endpoints" in str(caught.value)
    assert repr(text) in str(caught.value)


@given(st.text(max_size=40))
def test_no_text_breaks_the_endpoint_parser(text: str) -> None:
    try:
        parsed = endpoints.parse(text)
    except errors.EndpointRefusedError:
        return
    assert 0 < parsed.port < 65536
