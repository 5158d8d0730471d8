"""The relay's key lives in a Secret, so that a new pod is the same peer to every member."""

from __future__ import annotations

import pytest
from fake_api import FakeApi

from cnf.relay import key
from cnf.tunnel import errors
from fleetboard.model import names


def test_a_key_is_made_once_and_found_again() -> None:
    with FakeApi() as api:
        first = key.ensure(api.client(), names.NAMESPACE)
        assert key.ensure(api.client(), names.NAMESPACE).base64 == first.base64
        assert [collection for collection, _, _ in api.objects] == ["secrets"]


def test_a_secret_without_a_key_is_refused_by_name_and_left() -> None:
    with FakeApi() as api:
        api.put("secrets", key.SECRET, names.NAMESPACE, data={})
        with pytest.raises(errors.KeyRefusedError, match=f"Secret {names.NAMESPACE}/{key.SECRET} {key.SECRET_FIELD}"):
            key.ensure(api.client(), names.NAMESPACE)
        assert api.objects[("secrets", names.NAMESPACE, key.SECRET)]["data"] == {}


def test_an_api_server_that_is_away_is_waited_for() -> None:
    with FakeApi() as api:
        api.fail(503, times=1)
        assert key.wait(api.client(), names.NAMESPACE).public
