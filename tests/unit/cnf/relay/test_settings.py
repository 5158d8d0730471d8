from __future__ import annotations

import pytest

from cnf.relay import settings
from fleetboard.model import names
from fleetboard.runtime import environment


def test_endpoints_are_all_that_has_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNNEL_ENDPOINTS", "hub.example:31820, [2001:DB8::1]:9")
    assert settings.read() == settings.RelaySettings(
        namespace=names.NAMESPACE,
        clusterset="default",
        endpoints=("hub.example:31820", "[2001:db8::1]:9"),
        observe_port=names.OBSERVE_PORT,
        log_level="info",
    )


@pytest.mark.parametrize(("name", "value"), [("TUNNEL_ENDPOINTS", "hub.example"), ("CLUSTERSET", "No Name")])
def test_a_malformed_value_is_refused_by_variable_and_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("TUNNEL_ENDPOINTS", "hub.example:31820")
    monkeypatch.setenv(name, value)
    with pytest.raises(environment.SettingRefusedError, match=f"{name}.*{value}"):
        settings.read()
