"""Settings from the environment."""

from __future__ import annotations

import ipaddress

import pytest

from fleetboard.runtime import environment


def test_a_value_is_parsed() -> None:
    environ = {"PORT": " 80 ", "ON": "True", "CIDRS": "10.0.0.0/8, fd00::/8,", "N": "3"}
    assert environment.read("PORT", parse=environment.port, environ=environ) == 80
    assert environment.read("ON", parse=environment.flag, environ=environ) is True
    assert environment.read("N", 1, parse=int, environ=environ) == 3
    assert environment.read("CIDRS", parse=environment.networks, environ=environ) == (
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("fd00::/8"),
    )


@pytest.mark.parametrize("environ", [{}, {"X": ""}, {"X": "  "}])
def test_an_unset_value_is_the_default_or_refused(environ: dict[str, str]) -> None:
    assert environment.read("X", 5, parse=int, environ=environ) == 5
    assert environment.read("X", "d", environ=environ) == "d"
    assert environment.read("X", False, parse=environment.flag, environ=environ) is False
    with pytest.raises(environment.SettingRefusedError, match="X is not set"):
        environment.read("X", environ=environ)


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (environment.port, "0", "expected a port number"),
        (environment.port, "70000", "expected a port number"),
        (environment.flag, "yes", "expected true or false"),
        (environment.networks, "10.0.0.1/8", "expected CIDRs"),
        (int, "x", "expected a whole number"),
        (float, "x", "expected a number"),
    ],
)
def test_a_bad_value_is_refused_by_name_value_and_expectation(parse: type, text: str, expected: str) -> None:
    with pytest.raises(environment.SettingRefusedError) as caught:
        environment.read("MY_NAME", parse=parse, environ={"MY_NAME": text})
    assert "MY_NAME" in str(caught.value)
    assert repr(text) in str(caught.value)
    assert expected in str(caught.value)
