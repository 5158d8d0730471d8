"""Which fields of a ServiceImport this cluster's CRD can hold."""

from __future__ import annotations

import fake_api
import pytest
from mcs_objects import MCS_GROUP_VERSION, import_schema

from fleetboard.model import resource
from syncer import schema

PATH = ("status", "endpointSliceObjects")


@pytest.mark.parametrize("with_field", [True, False])
def test_r22_a_field_is_used_only_where_the_served_schema_has_it(with_field: bool) -> None:
    with fake_api.FakeApi() as api:
        api.openapi[MCS_GROUP_VERSION] = import_schema(*(() if with_field else (".".join(PATH),)))
        assert schema.has_field(api.client(), resource.SERVICE_IMPORTS, *PATH) is with_field
        assert api.asked[-1].path == f"/openapi/v3/apis/{MCS_GROUP_VERSION}"


def test_a_schema_that_can_not_be_read_says_nothing() -> None:
    with fake_api.FakeApi() as api:
        for status in (403, 404, 429, 503):
            api.fail(status)
            assert schema.has_field(api.client(), resource.SERVICE_IMPORTS, *PATH) is None
        api.fail(200, body=b"not JSON")
        assert schema.has_field(api.client(), resource.SERVICE_IMPORTS, *PATH) is None
