"""Which fields of a ServiceImport this cluster's CRD can hold."""

from __future__ import annotations

import fake_api
import pytest
from mcs_objects import MCS_GROUP_VERSION, import_schema

from fleetboard.kube import errors
from fleetboard.model import mcs, names, resource
from syncer.member.imports import schema

PATH = ("status", "endpointSliceObjects")


@pytest.mark.parametrize("with_field", [True, False])
def test_mcs22_a_field_is_used_only_where_the_served_schema_has_it(with_field: bool) -> None:
    with fake_api.FakeApi() as api:
        api.openapi[MCS_GROUP_VERSION] = import_schema(*(() if with_field else (".".join(PATH),)))
        described = schema.read(api.client(), resource.SERVICE_IMPORTS)
        assert schema.find_field(described, resource.SERVICE_IMPORTS.kind, PATH) is with_field
        assert api.requests[-1].path == f"/openapi/v3/apis/{MCS_GROUP_VERSION}"


def test_a_schema_that_can_not_be_read_says_nothing() -> None:
    with fake_api.FakeApi() as api:
        api.fail(200, body=b"not JSON", times=2)
        with pytest.raises(errors.AnswerRefusedError, match="not a schema"):
            schema.read(api.client(), resource.SERVICE_IMPORTS)
        with pytest.raises(errors.AnswerRefusedError, match="not a list of resources"):
            schema.newest(api.client(), resource.SERVICE_IMPORTS, known=mcs.VERSIONS)


@pytest.mark.parametrize(("served", "spoken"), [(("v1alpha1",), "v1alpha1"), (("v1alpha1", "v1beta1"), "v1beta1")])
def test_the_newest_version_that_is_served_and_known_is_spoken(served: tuple[str, ...], spoken: str) -> None:
    with fake_api.FakeApi() as api:
        for version in (*served, "v9"):
            api.openapi[f"{names.MCS_GROUP}/{version}"] = import_schema()
        kind = schema.newest(api.client(), resource.SERVICE_IMPORTS, known=mcs.VERSIONS)
        assert kind.path("shop", "web") == f"/apis/{names.MCS_GROUP}/{spoken}/namespaces/shop/serviceimports/web"
